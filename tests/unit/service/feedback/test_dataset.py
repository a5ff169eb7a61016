"""Labels as a data set: every label as it was given, frozen when a job is asked for, and read back by what trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.dataset import look
from models.dataset_store import DatasetStore
from models.merging import scan_all
from models.recipe import Recipe
from models.registry import Registry
from service.datasets import locate
from service.errors import InvalidDatasetError, InvalidRecipeError, UnknownDatasetError
from service.feedback.dataset import dataset_name
from service.feedback.desk import FeedbackDesk
from service.feedback.files import Files
from service.feedback.room import Bounds, Room
from service.feedback.store import FeedbackStore
from service.jobs.schema import JobSpec
from service.metrics import Metrics
from service.retraining import RetrainRequest, understand
from tests.support.folders import write_colours
from tests.support.images import noise
from tests.support.kept import keep, label
from tests.support.pictures import encode
from tests.support.tiny import BRIGHTNESS, PRESENCE, Tiny, colours, publish_tiny

# What a folder could not be called, a CSV gets wrong, or a reader takes for something else.
ODD = ("a/b", "..", ".hidden", "train", 'quo"ted, with comma', "7", "nan", "semi;colon", "bar|", "x" * 200)


class World:
    """A registry, a store of data sets and feedback, side by side as a service has them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.registry = Registry(home / "registry")
        self.datasets = DatasetStore(home / "datasets")
        self.store = FeedbackStore(Files(str(home / "feedback")))
        self.desk = FeedbackDesk(self.store, Room(self.store, Bounds(100, 10**9, 30)), self.registry, None, Metrics())

    def publish(self, name: str, tiny: Tiny) -> None:
        publish_tiny(self.registry, self.home / "work", name, tiny)

    def labelled(self, labels: dict[int, Any], model: str, tiny: Tiny) -> list[str]:
        """An image for each label, of its own noise; their ids."""
        ids = []
        for seed, value in labels.items():
            data = encode(noise(24, 24, seed), "PNG")
            ids.append(keep(self.store, data, model=model, task=tiny.task))
            label(self.store, ids[-1], value, model=model, task=tiny.task)
        return ids

    def asked(self, *dataset: str, model: str = "colours", **recipe: Any) -> JobSpec:
        asked = RetrainRequest(model=model, dataset=list(dataset), recipe=recipe)
        return understand(asked, self.registry, self.datasets, (), self.desk)

    def paths(self, spec: JobSpec) -> list[Path]:
        return [locate(reference, self.datasets, ()) for reference in spec.dataset]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.publish("colours", colours())
    return world


def test_every_label_is_trained_on_as_it_was_given(world: World) -> None:
    ids = world.labelled(dict(enumerate(ODD)), "colours", colours())
    spec = world.asked("feedback")
    assert spec.recipe.task == "single_label"
    (reference,) = spec.dataset
    assert reference.startswith("feedback-colours@")
    (path,) = world.paths(spec)
    _, targets = look(path, spec.recipe)
    assert {image.path.stem: targets.labels[int(image.target)] for image in targets.images} == dict(zip(ids, ODD, strict=True))  # type: ignore[arg-type]
    card = world.datasets.resolve(reference).card
    assert (card.task, card.source, set(card.labels)) == ("single_label", "feedback", set(ODD))
    assert scan_all([path], spec.recipe).labels == tuple(sorted(ODD))


def test_several_labels_an_image_and_none(world: World) -> None:
    world.publish("presence", PRESENCE)
    given = {0: ("red",), 1: ("red", "hot dog, with mustard; and more"), 2: (), 3: ("green",)}
    ids = world.labelled(given, "presence", PRESENCE)
    spec = world.asked("feedback", model="presence")
    (path,) = world.paths(spec)
    _, targets = look(path, spec.recipe)
    assert spec.recipe.task == targets.task == "multi_label"
    read = {image.path.stem: {targets.labels[index] for index in image.target} for image in targets.images}  # type: ignore[union-attr]
    assert read == {image: set(labels) for image, labels in zip(ids, given.values(), strict=True)}
    # By its own name it is the same.
    assert world.asked(*spec.dataset, model="presence") == spec


def test_numbers_keep_the_name_that_the_model_gives_them(world: World) -> None:
    world.publish("light", BRIGHTNESS)
    world.labelled({0: 1.5, 1: 2.0, 2: 1e-7}, "light", BRIGHTNESS)
    spec = world.asked("feedback", model="light")
    _, targets = look(world.paths(spec)[0], spec.recipe)
    assert (targets.task, targets.labels) == ("regression", ("brightness",))
    assert sorted(float(image.target) for image in targets.images) == [1e-7, 1.5, 2.0]  # type: ignore[arg-type]


def test_a_job_keeps_what_it_was_asked_for(world: World) -> None:
    first, _ = world.labelled({0: "red", 1: "green"}, "colours", colours())
    before = world.asked("feedback")
    assert world.asked("feedback") == before
    label(world.store, first, "blue")
    after = world.asked("feedback")
    assert after.dataset != before.dataset
    assert [look(world.paths(spec)[0], spec.recipe)[1].labels for spec in (before, after)] == [
        ("green", "red"),
        ("blue", "green"),
    ]
    # It is the model's own: another model's labels are not in it.
    world.publish("other", colours())
    with pytest.raises(InvalidDatasetError, match="nothing is labelled for other so far"):
        world.asked("feedback", model="other")


def test_beside_data_with_splits_it_is_for_training_only(world: World) -> None:
    world.datasets.put(write_colours(world.home / "photos", {"train": 4, "val": 2, "test": 2}, ("red", "green")), "photos")
    world.labelled({0: "red", 1: "new", 2: "new"}, "colours", colours())
    spec = world.asked("photos", "feedback")
    assert [reference.partition("@")[0] for reference in spec.dataset] == ["photos", "feedback-colours"]
    dataset = scan_all(world.paths(spec), spec.recipe)
    assert dataset.labels == ("green", "new", "red")
    assert {item.split for item in dataset.items if item.path.parent == world.paths(spec)[1].parent} == {"train"}
    assert {item.split for item in dataset.items} >= {"train", "test"}


def test_beside_a_table_that_is_written_otherwise(world: World) -> None:
    photos = write_colours(world.home / "photos", {"": 3}, ("red", "green"))
    rows = [f"{path.relative_to(photos)},{path.parent.name},x" for path in sorted(photos.rglob("*.png"))]
    (photos / "own.csv").write_text("\n".join(["where,kind,note", *rows]))
    world.datasets.put(photos, "photos")
    world.labelled({0: "red", 1: "new"}, "colours", colours())
    spec = world.asked("feedback", "photos", label_file="own.csv", image_column="where", label_column="kind")
    assert scan_all(world.paths(spec), spec.recipe.model_copy(update={"task": None})).labels == ("green", "new", "red")


def test_nothing_labelled_beside_another_is_left_out(world: World) -> None:
    world.datasets.put(write_colours(world.home / "photos", {"": 4}, ("red", "green")), "photos")
    spec = world.asked("photos", "feedback")
    assert [reference.partition("@")[0] for reference in spec.dataset] == ["photos"]
    assert (spec.recipe.task, world.datasets.names()) == (None, ["photos"])


def test_what_cannot_be_trained_on_is_said_before_there_is_a_job(world: World) -> None:
    with pytest.raises(InvalidDatasetError, match="nothing is labelled for colours so far; POST /feedback"):
        world.asked("feedback")
    with pytest.raises(InvalidDatasetError, match="nothing is labelled for nobody"):
        world.asked("feedback", model="nobody")
    world.labelled({0: "red", 1: "red"}, "colours", colours())
    with pytest.raises(InvalidDatasetError, match="only the label 'red'"):
        world.asked("feedback")
    world.labelled({2: "green"}, "colours", colours())
    with pytest.raises(InvalidRecipeError, match="task is multi_label, and the feedback was given for single_label"):
        world.asked("feedback", task="multi_label")
    # Asked for in vain, nothing of it is frozen.
    with pytest.raises(UnknownDatasetError):
        world.asked("feedback", "nowhere", model="colours")
    assert world.asked("feedback").recipe.task == "single_label"


def test_an_image_that_no_longer_decodes_is_left_out_of_the_card_and_harms_nobody(world: World) -> None:
    world.labelled({0: "red", 1: "green"}, "colours", colours())
    label(world.store, keep(world.store, b"\x89PNG but no more"), "red")
    spec = world.asked("feedback")
    card = world.datasets.resolve(spec.dataset[0]).card
    assert (card.images, [finding.kind for finding in card.findings]) == (2, ["unreadable", "few_images", "note"])


def test_deleting_an_image_says_which_data_sets_still_have_it(world: World) -> None:
    first, second = world.labelled({0: "red", 1: "green"}, "colours", colours())
    spec = world.asked("feedback")
    assert world.desk.delete(first, world.datasets) == list(spec.dataset)
    label(world.store, second, "blue")
    with pytest.raises(InvalidDatasetError):
        world.asked("feedback")
    assert world.desk.delete(second, world.datasets)[-1] == spec.dataset[0]


def test_names_are_data_sets_names_however_long_the_models_is(world: World) -> None:
    long = ["m" * 63, "m" * 62 + "x"]
    assert dataset_name("birds") == "feedback-birds"
    assert len({dataset_name(name) for name in long}) == 2
    for name in long:
        assert len(dataset_name(name)) <= 63
        world.publish(name, colours())
    world.labelled({0: "red", 1: "green"}, long[0], colours())
    assert world.asked("feedback", model=long[0]).dataset[0].startswith("feedback-mmm")


def test_recipe_of_feedback_is_one_that_can_be_written_down(world: World) -> None:
    world.labelled({0: "red", 1: "green"}, "colours", colours())
    spec = world.asked("feedback", epochs=3)
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert Recipe.from_mapping({"epochs": 3, "task": "single_label"}) == spec.recipe
