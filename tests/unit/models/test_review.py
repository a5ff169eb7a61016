"""`review.json`: what it says to those who ask, and what it refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import TypeAdapter

from models.errors import ArtifactError
from models.manifest import FileName
from models.review import answer, parse_review, read_review, review_bytes, thumbnail_name, weakest_first
from models.review_schema import Confused, SingleLabelReview
from tests.support.judged import made_up
from training.interpret import interpret

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def review() -> SingleLabelReview:
    found = interpret(made_up())
    assert isinstance(found, SingleLabelReview)
    return found


def test_what_is_written_is_what_is_read(review: SingleLabelReview, tmp_path: Path) -> None:
    (tmp_path / "review.json").write_bytes(review_bytes(review))
    assert read_review(tmp_path) == review
    assert review_bytes(parse_review(review_bytes(review))) == review_bytes(review)


def test_artifact_without_a_review_has_none(tmp_path: Path) -> None:
    assert read_review(tmp_path) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"task":"single_label"', '"task":"guessing"', "review: Input tag 'guessing'"),
        ('"temperature":1.3', '"temperature":0', "review.single_label.temperature: Input should be greater than 0"),
        ('"findings":[]', '"findings":[],"extra":1', "review.single_label.extra: is not a known key"),
        ("{", "", "review: Invalid JSON"),
    ],
)
def test_review_that_is_not_one_is_refused_by_the_fields_name(review: SingleLabelReview, old: str, new: str, said: str) -> None:
    text = review_bytes(review).decode()
    assert old in text
    with pytest.raises(ArtifactError, match=re.escape(said)):
        parse_review(text.replace(old, new, 1).encode())


def test_most_confused_pairs_come_by_count_with_the_rate_of_the_actual_label(review: SingleLabelReview) -> None:
    three = review.model_copy(update={"labels": ("a", "b", "c"), "confusion": ((0, 0, 6), (0, 1, 3), (0, 2, 1), (2, 1, 3))})
    assert three.confusion_matrix().tolist() == [[6, 3, 1], [0, 0, 0], [0, 3, 0]]
    assert three.most_confused() == [
        Confused(actual="c", predicted="b", count=3, rate_of_actual=1.0),
        Confused(actual="a", predicted="b", count=3, rate_of_actual=0.3),
        Confused(actual="a", predicted="c", count=1, rate_of_actual=0.1),
    ]
    assert three.most_confused(min_val=2) == three.most_confused()[:2]
    assert three.most_confused(min_val=4) == []


def test_matrix_counts_every_image_of_the_split(review: SingleLabelReview) -> None:
    matrix = review.confusion_matrix()
    assert review.judged_on == "test"
    assert matrix.sum() == review.scores["test"].images
    assert np.trace(matrix) == review.scores["test"].accuracy.count


def test_answer_describes_each_image_and_says_which_errors_are_below_the_threshold(review: SingleLabelReview) -> None:
    asked = review.questions[0]
    rows = answer(review, asked.label, "confidently_wrong", "predicted")
    assert [row["id"] for row in rows] == list(asked.predicted.confidently_wrong)
    for row in rows:
        assert row["predicted"] == asked.label != row["actual"]
        assert row["below_threshold"] is (row["p_predicted"] < asked.threshold)
        assert {"id", "path", "split", "p_predicted", "p_actual", "margin", "loss"} <= row.keys()
    assert sum(not row["below_threshold"] for row in rows) == asked.predicted.over_threshold
    sure = answer(review, asked.label, "most_confident", "actual")
    assert sure
    assert all("below_threshold" not in row and row["actual"] == row["predicted"] == asked.label for row in sure)
    with pytest.raises(KeyError):
        answer(review, "giraffe", "most_confident", "actual")


def test_weakest_label_is_first_and_an_unknown_one_last(review: SingleLabelReview) -> None:
    scores = review.per_label
    unknown = scores[0].model_copy(update={"f1": None})
    order = weakest_first((unknown, *scores[1:]))
    assert order[-1] == 0
    known = [scores[index].f1.value for index in order[:-1]]  # type: ignore[union-attr]
    assert known == sorted(known)


def test_thumbnails_name_is_one_that_a_manifest_may_list(review: SingleLabelReview) -> None:
    allowed = TypeAdapter(FileName)
    assert thumbnail_name("sha256:0123456789abcdef-2") == "thumbnails/0123456789abcdef-2.jpg"
    assert all(allowed.validate_python(thumbnail_name(image.id)) for image in review.images)
