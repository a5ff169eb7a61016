from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.confidence.schema import Confidence
from models.errors import ManifestError
from models.manifest import DatasetCard, Manifest, Metrics, SplitMetrics, check_name, recipe_sha256, summary
from models.recipe import Recipe
from tests.support.artifacts import make_confidence, make_manifest

SCORES = SplitMetrics(images=40, accuracy=0.9, macro_recall=0.88, nll=0.31, ece=0.02)


def full_manifest() -> Manifest:
    """Every optional block filled in, and text that is not ASCII."""
    recipe = Recipe(epochs=3, lr=1e-4)
    return make_manifest(
        labels=("bee", "größe", "犬/柴"),
        recipe=recipe,
        recipe_sha256=recipe_sha256(recipe),
        dataset=DatasetCard(fingerprint="0" * 64, splits={"train": 60, "test": 15}, skipped=2),
        parent="birds:3",
        run="job-7",
        metrics=Metrics(
            chosen="ema",
            validation={"probe": SCORES, "ema": SCORES},
            test={"ema": SCORES},
            calibrated=SCORES,
            raw=SCORES,
            recall={"bee": 1.0},
            unavailable={"calibration": "too few images"},
        ),
        files={"model.onnx": "a" * 64, "extra/notes.txt": "b" * 64},
    )


def edited(path: str, value: Any) -> bytes:
    """The bytes of a full manifest with one value replaced; the path is dotted."""
    fields = json.loads(full_manifest().to_bytes())
    *folders, last = path.split(".")
    target = fields
    for key in folders:
        target = target[key]
    target[last] = value
    return json.dumps(fields).encode()


def paths(fields: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in fields.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += paths(value, f"{prefix}{key}.")
    return found


# --- round-trip


@pytest.mark.parametrize("manifest", [make_manifest(), full_manifest()], ids=["smallest", "full"])
def test_a_manifest_survives_being_written_and_read(manifest: Manifest) -> None:
    assert Manifest.parse(manifest.to_bytes()) == manifest


def test_a_manifest_is_utf_8_json_with_a_closing_newline() -> None:
    data = full_manifest().to_bytes()

    assert data.endswith(b"}\n")
    assert json.loads(data)["labels"] == ["bee", "größe", "犬/柴"]
    assert "größe".encode() in data


def test_equal_manifests_are_equal_bytes_and_different_ones_are_not() -> None:
    assert make_manifest().to_bytes() == make_manifest().to_bytes()
    assert make_manifest().to_bytes() != make_manifest(version=2).to_bytes()


def test_equal_manifests_are_equal_bytes_whatever_the_order_of_their_keys() -> None:
    one, other = make_manifest(libraries={"a": "1", "b": "2"}), make_manifest(libraries={"b": "2", "a": "1"})
    assert one == other

    assert one.to_bytes() == other.to_bytes()


def test_its_own_hash_depends_on_every_field_but_itself() -> None:
    manifest = full_manifest()
    sealed = manifest.model_copy(update={"sha256": manifest.own_sha256()})

    assert sealed.own_sha256() == manifest.own_sha256()
    for field, value in {"version": 2, "labels": ("a", "b", "c"), "parent": None, "files": {}, "recipe": None}.items():
        assert manifest.model_copy(update={field: value}).own_sha256() != manifest.own_sha256()


def test_a_confidence_survives_being_written_and_read() -> None:
    confidence = make_confidence(0.1 + 0.2)

    assert Confidence.parse(confidence.model_dump_json().encode()) == confidence


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_manifest().version = 2


def test_reference_is_name_and_version() -> None:
    assert make_manifest(name="owls", version=12).reference == "owls:12"


# --- keys


REQUIRED = [
    "schema_version",
    "name",
    "version",
    "created",
    "task",
    "labels",
    "unit",
    "input",
    "input.height",
    "preprocessing",
    "preprocessing.crop_ratio",
    "preprocessing.alpha",
    "outputs",
    "outputs.spatial",
    "backbone",
    "backbone.licence",
    "recipe",
    "recipe_sha256",
    "dataset",
    "dataset.fingerprint",
    "parent",
    "run",
    "libraries",
    "metrics",
    "metrics.calibrated",
    "files",
    "sha256",
]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_key_is_refused_by_name(path: str) -> None:
    fields = json.loads(full_manifest().to_bytes())
    *folders, last = path.split(".")
    target = fields
    for key in folders:
        target = target[key]
    del target[last]

    with pytest.raises(ManifestError) as caught:
        Manifest.parse(json.dumps(fields).encode())

    assert str(caught.value) == (
        f"manifest.{path}: Field required\nexport it again with training, or use the candor that wrote it"
    )


def test_no_key_that_changes_a_prediction_has_a_default() -> None:
    optional = {
        "metrics.recall.",
        "metrics.unavailable.",
        "metrics.validation.",
        "metrics.test.",
        "recipe.",
        "libraries.",
        "files.",
    }
    fields = json.loads(full_manifest().to_bytes())

    for path in paths(fields):
        if any(path.startswith(prefix) for prefix in (*optional, "dataset.splits.")):
            continue
        without = json.loads(json.dumps(fields))
        *folders, last = path.split(".")
        target = without
        for key in folders:
            target = target[key]
        del target[last]
        with pytest.raises(ManifestError, match=f"manifest.{path}: Field required"):
            Manifest.parse(json.dumps(without).encode())


@pytest.mark.parametrize("path", ["extra", "input.extra", "preprocessing.mean", "outputs.extra", "metrics.extra", "recipe.extra"])
def test_an_unknown_key_is_refused_by_name(path: str) -> None:
    with pytest.raises(ManifestError, match=rf"^manifest\.{path}: is not a known key\n"):
        Manifest.parse(edited(path, 1))


def test_every_finding_is_named_at_once() -> None:
    fields = json.loads(full_manifest().to_bytes())
    fields["version"] = 0
    fields["input"]["height"] = 4096
    fields["unknown"] = 1
    del fields["task"]

    with pytest.raises(ManifestError) as caught:
        Manifest.parse(json.dumps(fields).encode())

    assert str(caught.value).splitlines() == [
        "manifest.version: Input should be greater than or equal to 1, got 0",
        "manifest.task: Field required",
        "manifest.input.height: Input should be less than or equal to 2048, got 4096",
        "manifest.unknown: is not a known key",
        "export it again with training, or use the candor that wrote it",
    ]


# --- values


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_schema_version_is_refused(version: object) -> None:
    with pytest.raises(ManifestError, match=r"^manifest\.schema_version: Input should be 1, got ") as caught:
        Manifest.parse(edited("schema_version", version))

    assert f"got {version!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 0),
        ("name", "Birds"),
        ("name", "../birds"),
        ("task", "ranking"),
        ("created", "yesterday"),
        ("labels", []),
        ("unit", "u" * 21),
        ("input.dtype", "float32"),
        ("input.layout", "NCHW"),
        ("input.height", 15),
        ("input.width", 2049),
        ("preprocessing.crop_ratio", 0),
        ("preprocessing.crop_ratio", 1.01),
        ("preprocessing.colour", "bgr"),
        ("outputs.embedding", 0),
        ("outputs.spatial", "none"),
        ("recipe_sha256", "0" * 63),
        ("dataset.fingerprint", "G" * 64),
        ("dataset.skipped", -1),
        ("metrics.chosen", "first"),
        ("recipe.lr", 2),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name_and_itself(path: str, value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(edited(path, value))

    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"manifest.{path}: ")
    assert first.endswith(f", got {value!r}"), first


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "path", ["preprocessing.crop_ratio", "metrics.calibrated.nll", "metrics.recall.bee", "recipe.lr", "recipe.clip_norm"]
)
def test_a_number_that_is_not_finite_is_refused(path: str, number: float) -> None:
    with pytest.raises(ManifestError, match=rf"^manifest\.{path}: .*got {number!r}"):
        Manifest.parse(edited(path, number))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(value: float) -> None:
    fields = make_confidence().model_dump(mode="json")
    fields["temperature"]["value"] = value

    with pytest.raises(ManifestError, match=rf"^confidence\.temperature\.value: .*got {value!r}"):
        Confidence.parse(json.dumps(fields).encode())


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"extra": 1}])
def test_a_confidence_of_another_schema_is_refused(change: dict[str, int]) -> None:
    fields = make_confidence().model_dump(mode="json") | change

    with pytest.raises(ManifestError, match=rf"^confidence\.{next(iter(change))}: "):
        Confidence.parse(json.dumps(fields).encode())


def test_a_label_that_is_there_twice_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match="labels must be unique, and 'cat' is there more than once"):
        Manifest.parse(edited("labels", ["cat", "dog", "cat"]))


def test_an_empty_label_is_refused() -> None:
    with pytest.raises(ManifestError, match="a label is empty"):
        Manifest.parse(edited("labels", ["cat", "", "dog"]))


@pytest.mark.parametrize("count", [2, 4])
def test_labels_that_are_not_as_many_as_logits_are_refused_with_both_numbers(count: int) -> None:
    with pytest.raises(ManifestError, match=f"labels has {count} entries, and outputs.logits says 3"):
        Manifest.parse(edited("labels", [f"label {i}" for i in range(count)]))


def test_a_finding_about_the_manifest_as_a_whole_names_the_manifest_and_does_not_repeat_it() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(edited("labels", ["cat", "cat", "dog"]))

    assert str(caught.value) == (
        "manifest: labels must be unique, and 'cat' is there more than once\n"
        "export it again with training, or use the candor that wrote it"
    )


@pytest.mark.parametrize("name", ["../x", "/x", ".hidden", "a/b/c", "a b", "", "a\\b", "a/../b", "a\n"])
def test_a_file_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="String should match pattern"):
        Manifest.parse(edited("files", {name: "0" * 64}))


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64])
def test_a_digest_that_is_not_a_sha256_in_small_letters_is_refused(digest: str) -> None:
    with pytest.raises(ManifestError, match=r"^manifest\.files\.model\.onnx: String should match pattern"):
        Manifest.parse(edited("files", {"model.onnx": digest}))


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b'"text"', b"1"])
def test_bytes_that_are_no_json_object_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^manifest.*(Invalid JSON|should be an object).*\nexport it again with training"):
        Manifest.parse(data)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.parse(data)


# --- names


@pytest.mark.parametrize("name", ["a", "0", "birds", "birds-2_x", "a" * 63])
def test_a_good_name_is_returned(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "Birds", "-a", "_a", ".", "..", "a/b", "a b", "a:1", "ä", "a\n", "a" * 64, "a.b", "\0"])
def test_a_bad_name_is_refused_with_the_name_and_the_rule(name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        check_name(name)

    assert str(caught.value) == (
        f"{name!r} cannot name a model; use up to 63 small letters, digits, '-' and '_', starting with a letter or digit"
    )


def test_a_very_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(ManifestError, match=r"^'x{79} cannot name a model"):
        check_name("x" * 10_000)


# --- hash and summary


def test_equal_recipes_have_equal_hashes_wherever_they_came_from() -> None:
    flags = Recipe.load(None, ["epochs=3", "lr=1e-4"])

    assert recipe_sha256(flags) == recipe_sha256(Recipe.from_mapping({"lr": 0.0001, "epochs": 3}))
    assert recipe_sha256(flags) != recipe_sha256(Recipe(epochs=3, lr=2e-4))


def test_summary_of_a_model_with_scores_is_plain_json() -> None:
    card = summary(full_manifest(), make_confidence())

    assert json.loads(json.dumps(card)) == {
        "version": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "task": "single_label",
        "backbone": "resnet18",
        "labels": 3,
        "unit": None,
        "image_size": 32,
        "score": 0.9,
        "score_name": "accuracy",
        "accuracy": 0.9,
        "nll": 0.31,
        "ece": 0.02,
        "mae": None,
        "calibration": "ok",
        "calibration_reason": None,
    }


def test_summary_of_a_model_without_scores_says_none() -> None:
    fields = make_confidence().model_dump()
    fields["temperature"] |= {"status": "none", "reason": "no calibration images"}

    card = summary(make_manifest(), Confidence.model_validate(fields))

    assert [card[key] for key in ("score", "score_name", "accuracy", "nll", "ece", "mae")] == [None] * 6
    assert (card["calibration"], card["calibration_reason"]) == ("none", "no calibration images")
