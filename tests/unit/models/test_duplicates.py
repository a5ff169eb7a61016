from __future__ import annotations

import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from models.duplicates import find_pairs, group_copies, thumbnail
from models.preprocess import load_image, standard_preprocessing
from tests.support.images import noise, plain
from tests.support.pictures import encode

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
PREPROCESSING = standard_preprocessing(crop_ratio=1.0)
SIZES = (96, 224)


def photo(name: str) -> Image.Image:
    image = Image.open(SAMPLES / f"{name}.jpg").convert("RGB")
    image.thumbnail((600, 600))
    return image


def resized(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


def seen(data: bytes, size: int = 96) -> np.ndarray:
    return thumbnail(load_image(data, PREPROCESSING, size, size))


def pairs(*images: Image.Image) -> list[tuple[int, int]]:
    return find_pairs(np.stack([seen(encode(image, "PNG")) for image in images]))


# --- what a copy is


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["cat", "coffee"])
@pytest.mark.parametrize(
    "copy",
    [
        *(pytest.param(lambda image, q=quality: encode(image, "JPEG", quality=q), id=f"q{quality}") for quality in (50, 75, 95)),
        *(
            pytest.param(lambda image, s=share: encode(resized(image, s), "JPEG", quality=85), id=f"x{share}")
            for share in (0.5, 0.7, 1.5, 2.0)
        ),
        *(
            pytest.param(lambda image, f=factor: encode(ImageEnhance.Brightness(image).enhance(f), "JPEG"), id=f"bright{factor}")
            for factor in (0.85, 1.1)
        ),
        pytest.param(lambda image: encode(resized(image, 0.6), "WEBP", quality=70), id="webp"),
        pytest.param(lambda image: encode(ImageEnhance.Contrast(image).enhance(1.15), "PNG"), id="contrast"),
    ],
)
def test_a_photograph_is_found_again_however_it_was_saved(name: str, copy: object, size: int) -> None:
    image = photo(name)
    others = [seen(encode(image.crop((x, y, x + 200, y + 200)), "PNG"), size) for x in (0, 200) for y in (0, 200)]

    found = find_pairs(np.stack([seen(encode(image, "PNG"), size), *others, seen(copy(image), size)]))

    assert found == [(0, 5)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), id="mirrored"),
        pytest.param(lambda image: image.rotate(15), id="turned"),
        pytest.param(lambda image: image.crop((60, 60, image.width, image.height)), id="cut"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.4), id="dark"),
        pytest.param(lambda image: Image.merge("RGB", image.split()[::-1]), id="recoloured"),
    ],
)
@pytest.mark.parametrize("name", ["cat", "coffee"])
def test_another_picture_of_the_same_thing_is_no_copy(name: str, change: object) -> None:
    assert pairs(photo(name), change(photo(name))) == []


def test_one_colour_is_nothing_to_be_told_apart_by() -> None:
    assert pairs(plain((200, 100, 50)), plain((201, 100, 50)), plain((200, 100, 50), 40, 40)) == []


def test_noise_on_one_colour_is_not_a_copy_of_other_noise() -> None:
    reds = [Image.blend(plain("red", 40, 40), noise(40, 40, seed), 0.5) for seed in range(30)]

    assert pairs(*reds) == []
    assert pairs(*reds, reds[7].resize((60, 60))) == [(7, 30)]


def sample(count: int) -> np.ndarray:
    with zipfile.ZipFile(SAMPLES / "fashion-mnist.zip") as archive:
        names = [name for name in archive.namelist() if "/train/" in name][::2]
        return np.stack([seen(archive.read(name)) for name in names[:count]])


def test_clothes_that_look_alike_are_not_copies_but_copies_of_them_are_found() -> None:
    clothes = sample(1000)
    again = np.clip(clothes[100:200].astype(int) + np.random.default_rng(0).integers(-2, 3, (100, 16, 16, 3)), 0, 255)

    assert find_pairs(clothes) == []
    assert find_pairs(np.concatenate([clothes, again.astype(np.uint8)])) == [(100 + row, 1000 + row) for row in range(100)]


def test_copies_are_found_where_every_image_has_several() -> None:
    """An augmented data set: what is usually near is then a copy, and must not be the measure of what is too near."""
    image = photo("coffee")
    tiles = [image.crop((x, y, x + 150, y + 150)) for x in range(0, 450, 150) for y in range(0, 400, 100)]
    copies = [[seen(encode(tile, "JPEG", quality=quality)) for quality in (95, 80, 65, 50)] for tile in tiles]
    names = [f"{tile:02}.{copy}" for tile in range(len(tiles)) for copy in range(4)]

    found = group_copies(names, np.stack([one for some in copies for one in some]))

    assert found == {name: f"{name[:2]}.0" for name in names}


# --- groups


def test_a_group_is_called_after_its_first_name_in_whatever_order_it_stands() -> None:
    one, other = seen(encode(photo("cat"), "PNG")), seen(encode(photo("coffee"), "PNG"))

    assert group_copies(["z", "b", "m", "a"], np.stack([one, other, one, one])) == {"z": "a", "m": "a", "a": "a"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_have_no_copies(count: int) -> None:
    thumbnails = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)

    assert group_copies([str(number) for number in range(count)], thumbnails) == {}


def test_the_same_images_have_the_same_pairs_every_time() -> None:
    thumbnails = np.repeat(np.random.default_rng(0).integers(0, 255, (50, 16, 16, 3), dtype=np.uint8), 3, axis=0)

    assert find_pairs(thumbnails) == find_pairs(thumbnails.copy())


def test_ten_thousand_images_are_compared_in_seconds_and_so_are_as_many_copies_of_one() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (10_000, 4, 4, 3), dtype=np.uint8)
    thumbnails = blocks.repeat(4, axis=1).repeat(4, axis=2)
    thumbnails[5_000:5_500] = thumbnails[:500]
    names = [f"{number:05}" for number in range(10_000)]

    started = time.perf_counter()
    found = group_copies(names, thumbnails)
    same = group_copies(names, thumbnails[:1].repeat(10_000, axis=0))

    assert {name: first for name, first in found.items() if name != first} == {
        f"{5_000 + number:05}": f"{number:05}" for number in range(500)
    }
    assert set(same.values()) == {"00000"}
    assert time.perf_counter() - started < 30


# --- thumbnails


@pytest.mark.parametrize("side", [16, 32, 50, 96, 224, 300])
def test_a_thumbnail_holds_averages(side: int) -> None:
    rows = np.repeat(np.linspace(0, 255, 4).astype(np.uint8), side // 4 + 1)[:side]
    pixels = np.stack([np.tile(rows[:, None], (1, side)), np.full((side, side), 7), np.tile(rows, (side, 1))], axis=2)

    found = thumbnail(pixels.astype(np.uint8))

    assert found.shape == (16, 16, 3)
    assert found.dtype == np.uint8
    assert (found[:, :, 1] == 7).all()
    np.testing.assert_allclose(found.mean(axis=(0, 1)), pixels.mean(axis=(0, 1)), atol=2)
    assert (np.diff(found[:, 0, 0].astype(int)) >= 0).all()
