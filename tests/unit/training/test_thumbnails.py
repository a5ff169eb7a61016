"""Thumbnails: of listed images only, small, and bounded in number and in bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models.review_schema import SingleLabelReview
from tests.support.judged import images_of, made_up
from training import thumbnails
from training.interpret import interpret
from training.subject import name_images
from training.thumbnails import SIDE_PX, encode, listed, make_thumbnails


@pytest.mark.parametrize(
    ("shape", "size"), [((224, 224, 3), (96, 96)), ((96, 96, 3), (96, 96)), ((32, 48, 3), (48, 32)), ((100, 400, 3), (96, 24))]
)
def test_picture_is_a_small_jpeg_of_what_the_network_saw(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    ramp = np.linspace(0, 255, shape[1]).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], shape)
    image = Image.open(io.BytesIO(encode(pixels)))
    assert (image.format, image.size, image.mode) == ("JPEG", size, "RGB")
    shown = np.asarray(image).astype(float)
    assert shown[:, 0].mean() < 12
    assert shown[:, -1].mean() > 243
    assert max(image.size) <= SIDE_PX


def test_every_listed_image_has_its_own_picture() -> None:
    subject = made_up(4)
    test = subject.outputs["test"]
    # Each image is one grey, so that a picture tells whose it is.
    greys = np.arange(len(test.images), dtype=np.uint8) * 3
    pixels = np.broadcast_to(greys[:, None, None, None], (len(greys), 8, 8, 3))
    outputs = {"test": replace(test, images=replace(test.images, pixels=pixels))}
    review = interpret(replace(subject, outputs=outputs))
    assert isinstance(review, SingleLabelReview)
    made = make_thumbnails(review, outputs)
    assert set(made) == set(listed(review)) >= {image.id for image in review.images}
    grey_of = dict(zip(name_images(outputs)["test"], greys, strict=True))
    for image_id, data in made.items():
        assert abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - int(grey_of[image_id])).max() <= 2


def test_suspects_come_first_then_losses_then_the_heads_of_the_weakest_labels_lists() -> None:
    review = interpret(made_up(4))
    assert isinstance(review, SingleLabelReview)
    assert review.suspects is not None
    order = list(listed(review))
    suspected = [suspect.id for suspect in review.suspects.listed]
    start = len(suspected) + len(review.top_losses)
    assert order[:start] == [*suspected, *review.top_losses]
    f1 = [entry.f1.value for entry in review.per_label if entry.f1]
    weakest = review.questions[int(np.argmin(f1))]
    assert order[start] == weakest.predicted.confidently_wrong[0]
    assert order[start + 1] == weakest.actual.confidently_wrong[0]


def test_pictures_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = made_up(4)
    review = interpret(subject)
    everything = make_thumbnails(review, subject.outputs)
    monkeypatch.setattr(thumbnails, "MOST_IMAGES", 10)
    assert list(make_thumbnails(review, subject.outputs)) == list(everything)[:10]
    monkeypatch.setattr(thumbnails, "MOST_BYTES", sum(len(data) for data in list(everything.values())[:4]) + 1)
    assert list(make_thumbnails(review, subject.outputs)) == list(everything)[:4]


def test_regression_and_its_pictures() -> None:
    targets = np.arange(20, dtype=np.float32)[:, None]
    outputs = {"test": replace(made_up(2, {"test": 20}).outputs["test"], images=images_of("test", targets), logits=targets * 1.1)}
    review = interpret(replace(made_up(2), task="regression", labels=("x",), outputs=outputs, temperature=1.0))
    assert len(make_thumbnails(review, outputs)) == 20
