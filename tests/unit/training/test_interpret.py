"""What a review says of outputs that are known: scores, the three questions, top losses; what it says without data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.decision import probabilities
from models.metrics import confusion_matrix, score
from models.review import by_id
from models.review_schema import Lists, MultiLabelReview, RegressionReview, SingleLabelReview
from tests.support.judged import ROOT, images_of, made_up
from training.interpret import LISTS_A_LABEL, SHORTEST_WRONG_LIST, TOP_LOSSES, interpret
from training.subject import HELD_OUT, LIST_LENGTH, MOST_LISTED, Outputs, Strange, Subject, list_length, name_images

if TYPE_CHECKING:
    from models.dataset import Split

LABELS = 5


def reviewed(subject: Subject) -> SingleLabelReview:
    review = interpret(subject)
    assert isinstance(review, SingleLabelReview)
    return review


@pytest.fixture(scope="module")
def subject() -> Subject:
    return made_up(LABELS, {"train": 200, "validation": 60, "calibration": 60, "test": 300})


@pytest.fixture(scope="module")
def review(subject: Subject) -> SingleLabelReview:
    return reviewed(subject)


def every_list(review: SingleLabelReview) -> list[tuple[str, str, Lists]]:
    return [(entry.label, by, getattr(entry, by)) for entry in review.questions for by in ("predicted", "actual")]


@pytest.mark.parametrize("split", ["train", "validation", "calibration", "test"])
def test_scores_are_those_of_the_shared_metrics(subject: Subject, review: SingleLabelReview, split: Split) -> None:
    out, scores = subject.outputs[split], review.scores[split]
    calibrated = score(probabilities(out.logits, subject.temperature), out.images.targets)
    raw = score(probabilities(out.logits, 1.0), out.images.targets)
    assert scores.images == calibrated.images
    assert scores.accuracy.value == pytest.approx(calibrated.accuracy)
    assert scores.accuracy.low < scores.accuracy.value < scores.accuracy.high
    assert scores.error_rate == pytest.approx(1 - calibrated.accuracy)
    assert (scores.nll, scores.ece) == pytest.approx((calibrated.nll, calibrated.ece))
    assert (scores.nll_raw, scores.ece_raw) == pytest.approx((raw.nll, raw.ece))
    assert scores.typical_p_actual == pytest.approx(np.exp(-calibrated.nll))


def test_one_certain_miss_is_floored_in_the_scores_as_everywhere(subject: Subject) -> None:
    test = subject.outputs["test"]
    logits = test.logits.copy()
    logits[0] = -500
    logits[0, (test.images.targets[0] + 1) % LABELS] = 500
    found = reviewed(replace(subject, outputs={"test": replace(test, logits=logits)}))
    assert found.scores["test"].nll == pytest.approx(score(probabilities(logits, 1.3), test.images.targets).nll)
    assert by_id(found.images)[found.top_losses[0]].loss == pytest.approx(1000 / 1.3)


def test_labels_scores_are_counted_on_test(subject: Subject, review: SingleLabelReview) -> None:
    test = subject.outputs["test"]
    matrix = confusion_matrix(test.logits.argmax(axis=1), test.images.targets, LABELS)
    assert review.judged_on == "test"
    assert (review.confusion_matrix() == matrix).all()
    for index, scores in enumerate(review.per_label):
        hits, actual, predicted = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
        assert (scores.actual, scores.predicted) == (actual, predicted)
        assert scores.precision is not None
        assert scores.recall is not None
        assert scores.f1 is not None
        assert (scores.precision.value, scores.recall.value) == (hits / predicted, hits / actual)
        assert scores.f1.value == pytest.approx(2 * hits / (actual + predicted))
        assert scores.f1.low < scores.f1.value < scores.f1.high


def test_reliability_bins_hold_every_image_once_and_give_the_calibration_error(review: SingleLabelReview) -> None:
    assert review.reliability is not None
    scores = review.scores["test"]
    for bins, error in ((review.reliability.calibrated, scores.ece), (review.reliability.raw, scores.ece_raw)):
        assert len(bins) == 15
        assert sum(one.images for one in bins) == scores.images
        gaps = [one.images * abs(one.stated - one.right.value) for one in bins if one.stated is not None and one.right]
        assert sum(gaps) / scores.images == pytest.approx(error)
        assert all(one.low < one.stated <= one.high for one in bins if one.stated is not None)


def test_lists_are_of_held_out_images_and_name_each_once(review: SingleLabelReview) -> None:
    described = by_id(review.images)
    assert len(described) == len(review.images)
    assert {image.split for image in review.images} == set(HELD_OUT)
    for _, _, lists in every_list(review):
        for ids in (lists.most_confident, lists.least_confident, lists.confidently_wrong, lists.unfamiliar or ()):
            assert len(set(ids)) == len(ids) <= LIST_LENGTH
            assert set(ids) <= described.keys()
    assert set(described) == {
        image_id
        for _, _, lists in every_list(review)
        for ids in (lists.most_confident, lists.least_confident, lists.confidently_wrong, lists.unfamiliar or ())
        for image_id in ids
    } | set(review.top_losses)


def test_what_is_stored_of_an_image_is_what_its_logits_say(subject: Subject, review: SingleLabelReview) -> None:
    """Acceptance test A14: recomputed from the logits of the file that the path names."""
    assert review.images
    for image in review.images:
        out = subject.outputs[image.split]
        row = next(row for row, item in enumerate(out.images.items) if item.path == ROOT / image.path)
        p = probabilities(out.logits[row], subject.temperature)
        best, second = np.sort(p)[::-1][:2]
        actual = out.images.targets[row]
        assert image.id == f"sha256:{out.images.items[row].digest[:16]}"
        assert (image.actual, image.predicted) == (subject.labels[actual], subject.labels[int(p.argmax())])
        assert (image.p_predicted, image.p_actual, image.margin) == pytest.approx((best, p[actual], best - second), abs=1e-5)
        assert image.loss == pytest.approx(-np.log(p[actual]), rel=1e-5)


def test_the_three_questions_are_answered_as_a_naive_reading_of_the_rule_would(
    subject: Subject, review: SingleLabelReview
) -> None:
    rows: list[dict[str, Any]] = []
    names = name_images(subject.outputs)
    for split in HELD_OUT:
        out = subject.outputs[split]
        p = probabilities(out.logits, subject.temperature)
        for row, name in enumerate(names[split]):
            actual, predicted = subject.labels[out.images.targets[row]], subject.labels[p[row].argmax()]
            rows.append({"id": name, "actual": actual, "predicted": predicted, "p": p[row].max()})
    for entry in review.questions:
        right = [row["p"] for row in rows if row["actual"] == row["predicted"] == entry.label]
        threshold = max(0.9, float(np.median(right)))
        assert entry.threshold == pytest.approx(threshold, rel=1e-5)
        for by in ("predicted", "actual"):
            lists: Lists = getattr(entry, by)
            mine = sorted((row for row in rows if row[by] == entry.label), key=lambda row: row["p"])
            sure = [row["id"] for row in reversed(mine) if row["actual"] == row["predicted"]]
            wrong = [row for row in reversed(mine) if row["actual"] != row["predicted"]]
            confident = [row for row in wrong if row["p"] >= threshold]
            expected = confident if len(confident) >= SHORTEST_WRONG_LIST else wrong[:SHORTEST_WRONG_LIST]
            assert list(lists.most_confident) == sure[:LIST_LENGTH]
            assert list(lists.least_confident) == [row["id"] for row in mine[:LIST_LENGTH]]
            assert list(lists.confidently_wrong) == [row["id"] for row in expected[:LIST_LENGTH]]
            assert lists.over_threshold == len(confident)


def test_strangest_images_of_each_label_are_listed_right_or_wrong(subject: Subject, review: SingleLabelReview) -> None:
    p_familiar = subject.strange.p_familiar
    assert p_familiar is not None
    names, described = name_images(subject.outputs), by_id(review.images)
    labelled: dict[str, dict[str, str]] = {"predicted": {}, "actual": {}}
    for split in ("calibration", "test"):
        out = subject.outputs[split]
        for name, row, target in zip(names[split], out.logits, out.images.targets, strict=True):
            labelled["predicted"][str(name)] = subject.labels[row.argmax()]
            labelled["actual"][str(name)] = subject.labels[target]
    for label, by, lists in every_list(review):
        expected = [name for name in sorted(p_familiar, key=p_familiar.__getitem__) if labelled[by][name] == label]
        assert lists.unfamiliar is not None
        assert list(lists.unfamiliar) == expected[:LIST_LENGTH]
    assert all(
        image.p_familiar == pytest.approx(p_familiar[image.id], rel=1e-5) for image in described.values() if image.p_familiar
    )
    assert {image.split for image in described.values() if image.p_familiar is None} == {"validation"}
    assert "unfamiliar" not in review.unavailable


def test_without_familiarity_there_is_no_list_of_strange_images_and_a_reason(subject: Subject) -> None:
    found = reviewed(replace(subject, strange=Strange(None, "the data has no calibration split")))
    assert all(lists.unfamiliar is None for _, _, lists in every_list(found))
    assert found.unavailable["unfamiliar"] == "the data has no calibration split"
    assert {image.p_familiar for image in found.images} == {None}


def test_model_without_a_confident_error_still_shows_its_five_most_confident_ones(subject: Subject) -> None:
    found = reviewed(replace(subject, temperature=20.0))
    for _, _, lists in every_list(found):
        assert lists.over_threshold == 0
        assert len(lists.confidently_wrong) == SHORTEST_WRONG_LIST


def test_top_losses_come_by_loss(review: SingleLabelReview) -> None:
    described = by_id(review.images)
    losses = [described[image_id].loss for image_id in review.top_losses]
    assert len(losses) == TOP_LOSSES
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] >= max(image.loss for image in review.images if image.id not in review.top_losses)


def test_without_a_test_split_tables_are_of_validation_and_say_so() -> None:
    found = reviewed(made_up(3, {"train": 30, "validation": 20}))
    assert (found.judged_on, found.held_out) == ("validation", ("validation",))
    assert found.unavailable["test"] == (
        "the data has no test split; tables and plots are of validation, which helped to make the model"
    )
    assert found.confusion_matrix().sum() == 20


def test_without_anything_held_out_nothing_is_said_of_new_images() -> None:
    found = reviewed(made_up(3, {"train": 30}))
    assert found.judged_on is None
    assert found.scores.keys() == {"train"}
    assert (found.per_label, found.confusion, found.reliability) == ((), (), None)
    assert (found.images, found.questions, found.top_losses) == ((), (), ())
    assert "nothing can be said" in found.unavailable["held_out"]
    assert found.suspects is not None


def test_copies_are_listed_once_and_contradicting_ones_apart() -> None:
    subject = made_up(3, {"train": 12, "test": 40}, outputs=None)
    test = made_up(3, {"test": 40}).outputs["test"]
    items = list(test.images.items)
    for row, target in ((11, items[10].target), (12, (int(items[10].target) + 1) % 3)):
        items[row] = replace(items[row], digest=items[10].digest, target=target)
    targets = np.array([item.target for item in items])
    copied = replace(test, images=replace(test.images, items=tuple(items), targets=targets))
    names = name_images({"test": copied})["test"]
    first = f"sha256:{items[10].digest[:16]}"
    assert (names[10], names[11], names[12]) == (first, None, f"{first}-2")
    assert len(set(names)) == 40
    found = reviewed(replace(subject, outputs={"test": copied}))
    paths = [image.path for image in found.images]
    assert "test/0011.png" not in paths
    assert found.scores["test"].images == 40


def test_ids_grow_until_no_two_files_share_one() -> None:
    test = made_up(3, {"test": 8}).outputs["test"]
    twins = tuple(replace(item, digest="a" * 20 + f"{row}" + "b" * 43) for row, item in enumerate(test.images.items))
    names = name_images({"test": replace(test, images=replace(test.images, items=twins))})["test"]
    assert len(set(names)) == 8
    assert names[3] == f"sha256:{'a' * 20}3"


def test_logits_that_are_not_finite_are_refused(subject: Subject) -> None:
    logits = subject.outputs["test"].logits.copy()
    logits[3, 1] = np.nan
    broken = replace(subject, outputs={"test": replace(subject.outputs["test"], logits=logits)})
    with pytest.raises(ValueError, match="not finite"):
        interpret(broken)


def test_lists_get_shorter_with_very_many_labels() -> None:
    assert list_length(10, LISTS_A_LABEL) == list_length(375, LISTS_A_LABEL) == LIST_LENGTH
    assert list_length(1000, LISTS_A_LABEL) * 1000 * LISTS_A_LABEL <= MOST_LISTED
    assert list_length(10**6, LISTS_A_LABEL) == 1


def test_multi_label_lists_are_the_rows_that_the_thresholds_make_them() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(np.float32)
    logits = ((targets * 2 - 1) + rng.normal(size=(60, 3)) * 1.5).astype(np.float32)
    outputs: dict[Any, Outputs] = {"test": Outputs(images_of("test", targets), logits, None)}
    thresholds = {"a": 0.3, "b": 0.5, "c": 0.7}
    review = interpret(Subject("multi_label", ("a", "b", "c"), outputs, 1.5, ROOT, thresholds=thresholds))
    assert isinstance(review, MultiLabelReview)
    p = 1 / (1 + np.exp(-logits.astype(np.float64) / 1.5))
    names = name_images(outputs)["test"]
    for index, entry in enumerate(review.per_label):
        said, has = p[:, index] >= thresholds[entry.scores.label], targets[:, index] > 0
        assert entry.scores.recall is not None
        assert entry.scores.recall.value == pytest.approx((said & has).sum() / has.sum())

        def expected(which: np.ndarray, rank: np.ndarray) -> list[str | None]:
            return [names[row] for row in np.argsort(rank, kind="stable") if which[row]][:LIST_LENGTH]

        one = p[:, index]
        assert [image.id for image in entry.most_sure] == expected(said & has, -one)
        assert [image.id for image in entry.false_alarms] == expected(said & ~has, -one)
        assert [image.id for image in entry.missed] == expected(~said & has, one)
        near = np.abs(one - entry.threshold)
        assert [image.id for image in entry.unsure] == expected(np.ones(60, dtype=bool), near)
        assert [image.p for image in entry.unsure] == pytest.approx(list(one[np.argsort(near)[:12]]), rel=1e-5)
    described = by_id(review.images)
    for row, name in enumerate(names):
        if name in described:
            assert described[name].actual == tuple(np.array(["a", "b", "c"])[targets[row] > 0])


def test_multi_label_without_thresholds_is_refused() -> None:
    targets = np.eye(3, dtype=np.float32)
    subject = Subject("multi_label", ("a", "b", "c"), {"test": Outputs(images_of("test", targets), targets, None)}, 1.0, ROOT)
    with pytest.raises(ValueError, match="thresholds is None"):
        interpret(subject)


def test_regression_lists_the_largest_errors_with_their_sign() -> None:
    rng = np.random.default_rng(0)
    targets = rng.uniform(-90, 90, (70, 1)).astype(np.float32)
    values = (targets + rng.normal(size=(70, 1)) * 9 + 2).astype(np.float32)
    outputs: dict[Any, Outputs] = {"test": Outputs(images_of("test", targets), values, None)}
    review = interpret(Subject("regression", ("angle",), outputs, 1.0, ROOT, unit="degrees"))
    assert isinstance(review, RegressionReview)
    errors = values[:, 0].astype(float) - targets[:, 0]
    scores = review.scores["test"]
    assert (scores.mae, scores.bias) == pytest.approx((np.abs(errors).mean(), errors.mean()))
    assert scores.quantiles[2] == pytest.approx(np.median(errors))
    names = name_images(outputs)["test"]
    assert list(review.largest_errors) == [names[row] for row in np.argsort(-np.abs(errors), kind="stable")[:50]]
    worst = by_id(review.images)[review.largest_errors[0]]
    assert worst.error == pytest.approx(errors[np.abs(errors).argmax()], rel=1e-5)
    assert worst.error == pytest.approx(worst.predicted - worst.actual, rel=1e-4)
    assert len(review.points) == 70
