"""Augmentation: each image its own draw, from a table that can be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.recipe import Recipe
from training.augment import Augment

pytestmark = pytest.mark.torch
STILL = {"min_crop": 1.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0}


def augmented(images: torch.Tensor, seed: int = 0, **changes: Any) -> torch.Tensor:
    augment = Augment(Recipe.from_mapping(changes))
    return augment(images, augment.draw(len(images), torch.Generator().manual_seed(seed)))


def test_off_when_the_recipe_says_none() -> None:
    images = torch.rand(4, 3, 16, 16)
    assert augmented(images, augment="none") is images


@pytest.mark.parametrize(
    "changes",
    [{"flip": True}, {"rotate_deg": 20}, {"saturation": 0.5}, {"erase": 1.0}, {"shift": 0.3}, {"min_crop": 0.3}, {}],
    ids=str,
)
def test_repeats_under_a_seed_and_draws_for_each_image(changes: dict[str, Any]) -> None:
    images = torch.rand(1, 3, 16, 16).expand(6, 3, 16, 16).contiguous()
    before = images.clone()
    first, again, other = (augmented(images, seed, **changes) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({row.numpy().tobytes() for row in first}) == 6
    assert first.shape == images.shape
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", ["basic", "trivial"])
def test_a_batch_that_is_cut_gets_what_it_would_have_got_whole(kind: str) -> None:
    pixels = torch.randint(0, 256, (7, 24, 24, 3), dtype=torch.uint8)
    augment = Augment(Recipe.from_mapping({"augment": kind, "flip": True, "rotate_deg": 20, "erase": 0.5, "saturation": 0.3}))
    draws = augment.draw(7, torch.Generator().manual_seed(3))

    def run(rows: slice) -> torch.Tensor:
        bytes_ = augment.on_bytes(pixels[rows], draws[rows])
        return augment(bytes_.permute(0, 3, 1, 2).float() / 255, draws[rows])

    torch.testing.assert_close(torch.cat([run(slice(0, 3)), run(slice(3, 7))]), run(slice(0, 7)))


def test_trivial_augment_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    pixels = torch.randint(0, 256, (16, 24, 24, 3), dtype=torch.uint8)
    augment = Augment(Recipe(augment="trivial"))
    draws = augment.draw(16, torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = augment.on_bytes(pixels, draws)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, augment.on_bytes(pixels, draws))
    changed = sum(not torch.equal(a, b) for a, b in zip(first, pixels, strict=True))
    assert changed > 8
    assert first.dtype == torch.uint8


def test_flip_alone_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(200, 3, 4, 4)
    flipped = augmented(images, flip=True, **STILL)
    mirrored = sum(torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(flipped, images, strict=True))
    kept = sum(torch.allclose(a, b, atol=1e-5) for a, b in zip(flipped, images, strict=True))
    assert mirrored + kept == 200
    assert 70 < mirrored < 130


def test_a_turn_keeps_the_middle_and_moves_the_corner() -> None:
    images = torch.zeros(32, 3, 33, 33)
    images[:, :, 16, 16] = 1
    images[:, :, 2, 2] = 1
    turned = augmented(images, rotate_deg=45, **STILL)
    torch.testing.assert_close(turned[:, :, 16, 16], torch.ones(32, 3), atol=1e-3, rtol=0)
    assert (turned[:, 0, 2, 2] < 0.9).sum() > 24


def test_erasing_blanks_one_rectangle_of_two_to_twenty_percent_to_the_mean() -> None:
    images = torch.ones(64, 3, 40, 40)
    erased = augmented(images, erase=1.0, **STILL)
    blank = (erased == 0).all(dim=1)
    shares = blank.float().mean(dim=(1, 2))
    assert float(shares.min()) > 0.005
    assert float(shares.max()) < 0.25
    for one in blank:
        rows, columns = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        assert one[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    some = augmented(images, erase=0.25, **STILL)
    assert 4 < sum(bool((image == 0).any()) for image in some) < 30


def test_light_changes_stay_within_what_the_recipe_says() -> None:
    images = torch.rand(64, 3, 8, 8)
    brighter = augmented(images, **{**STILL, "brightness": 0.2}) - images
    assert float(brighter.abs().max()) <= 0.2 + 1e-6
    spread = (brighter.amax(dim=(1, 2, 3)) - brighter.amin(dim=(1, 2, 3))).max()
    assert float(spread) < 1e-5
    contrasted = augmented(images, **{**STILL, "contrast": 0.5})
    torch.testing.assert_close(contrasted.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    ratio = contrasted.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.5 <= float(ratio.min()) < 0.7
    assert 1.3 < float(ratio.max()) <= 1.5
