from __future__ import annotations

import contextlib
import io
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.errors import EmptyImageError, ImageError, ImageTooLargeError, UnreadableImageError, UnsupportedFormatError
from models.preprocess import DEFAULT_LIMITS, Limits, load_image, standard_preprocessing
from tests.support.images import ORIENTATION, noise, oriented, plain, quarters
from tests.support.pictures import encode, huge_png

WHOLE = standard_preprocessing(1.0)
SMALL = Limits(header_px=1_000_000, decoded_px=200_000)
EXACT = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True}}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def load(data: bytes, height: int = 16, width: int = 16, crop_ratio: float = 1.0, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    return load_image(data, standard_preprocessing(crop_ratio), height, width, limits)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def assert_colour(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 0) -> None:
    """Every pixel is `colour`, give or take."""
    assert np.abs(pixels.astype(int) - np.array(colour)).max() <= tolerance, f"got {pixels[0, 0]}, expected {colour}"


def _exif(kind: int, count: int, value: bytes) -> bytes:
    """One entry, the orientation, of a TIFF directory: kind 2 is text and 3 a 16-bit number; four bytes of value."""
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHI", 8, 1, ORIENTATION, kind, count) + value + bytes(4)


# --- what comes out


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (40, 24)])
def test_result_of_any_format_is_uint8_height_width_3_and_contiguous(kind: str, height: int, width: int) -> None:
    pixels = load(encode(quarters(100, 60), kind), height, width)

    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)
    assert pixels.flags.c_contiguous


def test_the_same_bytes_twice_give_the_same_pixels() -> None:
    data = encode(noise(100, 60), "JPEG")

    assert np.array_equal(load(data), load(data))


@pytest.mark.parametrize("kind", EXACT)
def test_an_image_that_has_the_size_asked_for_comes_back_unchanged(kind: str) -> None:
    image = noise(24, 16)

    assert np.array_equal(load(encode(image, kind, **EXACT[kind]), 16, 24), np.asarray(image))


@pytest.mark.parametrize("kind", EXACT)
def test_content_decides_the_format_so_a_png_named_jpg_is_read_as_what_it_is(kind: str, tmp_path) -> None:
    misnamed = tmp_path / "photo.jpg"
    misnamed.write_bytes(encode(noise(50, 50), kind, **EXACT[kind]))

    assert np.array_equal(load(misnamed.read_bytes()), load(encode(noise(50, 50), "PNG")))


@pytest.mark.parametrize("kind", FORMATS)
def test_one_pixel_fills_the_whole_result(kind: str) -> None:
    assert_colour(load(encode(plain((200, 100, 50), 1, 1), kind)), (200, 100, 50), tolerance=3)


@pytest.mark.parametrize(("width", "height"), [(3000, 1), (1, 3000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_one_pixel_thin_is_accepted(kind: str, width: int, height: int) -> None:
    assert_colour(load(encode(plain((9, 90, 200), width, height), kind), crop_ratio=0.875), (9, 90, 200), tolerance=3)


# --- colour and transparency


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_greyscale_becomes_three_equal_channels(kind: str) -> None:
    assert_colour(load(encode(plain(77, mode="L"), kind)), (77, 77, 77), tolerance=1)


def test_black_and_white_png_becomes_0_and_255() -> None:
    image = Image.new("1", (20, 20), 1)
    image.paste(0, (0, 0, 10, 20))

    pixels = load(encode(image, "PNG"), 20, 20)

    assert_colour(pixels[:, :10], (0, 0, 0))
    assert_colour(pixels[:, 10:], (255, 255, 255))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    ("alpha", "expected"), [(0, (255, 255, 255)), (128, (255, 127, 127)), (255, (255, 0, 0))], ids=["clear", "half", "opaque"]
)
def test_transparency_lies_over_white(kind: str, alpha: int, expected: tuple[int, int, int]) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}

    assert_colour(load(encode(plain((255, 0, 0, alpha), mode="RGBA"), kind, **options)), expected, tolerance=1)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (128, 127), (255, 0)])
def test_grey_with_alpha_lies_over_white(alpha: int, expected: int) -> None:
    assert_colour(load(encode(plain((0, alpha), mode="LA"), "PNG")), (expected,) * 3, tolerance=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_a_palette_without_transparency_gives_its_colours(kind: str) -> None:
    image = plain((10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)

    assert_colour(load(encode(image, kind)), (10, 200, 30))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_entry_shows_white_there_and_its_colour_elsewhere(kind: str) -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (10, 0, 20, 20))

    pixels = load(encode(image, kind, transparency=0), 20, 20)

    assert_colour(pixels[:, :10], (255, 255, 255))
    assert_colour(pixels[:, 10:], (0, 0, 255))


def test_a_palette_with_half_transparent_entries_is_blended_with_white() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0])

    assert_colour(load(encode(image, "PNG", transparency=bytes([128]))), (255, 127, 127), tolerance=1)


def test_an_rgb_png_with_one_transparent_colour_shows_white_there() -> None:
    assert_colour(load(encode(plain((1, 2, 3)), "PNG", transparency=(1, 2, 3))), (255, 255, 255))


@pytest.mark.parametrize(
    ("ink", "expected"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
    ids=["paper", "red", "black"],
)
def test_a_cmyk_jpeg_is_turned_into_rgb(ink: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    assert_colour(load(encode(plain(ink, mode="CMYK"), "JPEG", quality=95)), expected, tolerance=4)


@pytest.mark.parametrize(("sixteen_bits", "eight_bits"), [(0, 0), (257, 1), (32768, 128), (40000, 156), (65535, 255)])
def test_a_16_bit_grey_png_is_scaled_to_8_bits_and_not_clipped_to_white(sixteen_bits: int, eight_bits: int) -> None:
    data = encode(plain(sixteen_bits, mode="I;16"), "PNG")
    assert Image.open(io.BytesIO(data)).mode.startswith("I"), "the picture under test is not a 16-bit one"

    assert_colour(load(data), (eight_bits,) * 3)


def test_a_16_bit_grey_png_with_a_transparent_grey_shows_white_there() -> None:
    assert_colour(load(encode(plain(1000, mode="I;16"), "PNG", transparency=1000)), (255, 255, 255))


def test_an_animated_gif_is_its_first_frame() -> None:
    data = encode(plain((255, 0, 0)), "GIF", save_all=True, append_images=[plain((0, 255, 0)), plain((0, 0, 255))], duration=50)
    assert Image.open(io.BytesIO(data)).n_frames == 3

    assert_colour(load(data), (255, 0, 0))


def test_a_jpeg_of_several_pictures_is_its_first() -> None:
    data = encode(plain((255, 0, 0)), "MPO", save_all=True, append_images=[plain((0, 0, 255))])
    assert Image.open(io.BytesIO(data)).format == "MPO"

    assert_colour(load(data), (255, 0, 0), tolerance=3)


# --- orientation, crop and resize


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48), (48, 24)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("source", [(192, 96), (96, 192)], ids=["wide_photo", "tall_photo"])
def test_a_turned_jpeg_gives_the_upright_picture(orientation: int, height: int, width: int, source: tuple[int, int]) -> None:
    upright = quarters(*source)

    turned = load(oriented(upright, orientation, quality=95), height, width, crop_ratio=0.8)

    assert turned.shape == (height, width, 3)
    straight = load(encode(upright, "JPEG", quality=95), height, width, crop_ratio=0.8)
    assert difference(turned, straight) < 1.5  # 30 and more under any other orientation
    assert difference(turned[::-1], straight) > 20, "the picture cannot tell a flip"
    assert difference(turned[:, ::-1], straight) > 20, "the picture cannot tell a mirror"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_orientation_is_honoured_in_every_format_that_carries_it(orientation: int, kind: str) -> None:
    upright = noise(48, 32)

    turned = load(oriented(upright, orientation, kind, **EXACT[kind]), 32, 48)

    assert np.array_equal(turned, np.asarray(upright))


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [(3, 1, b"\0\0\0\0"), (3, 1, b"\0\x09\0\0"), (3, 1, b"\xff\xff\0\0"), (2, 2, b"6\0\0\0")],
    ids=["0", "9", "65535", "text"],
)
def test_an_orientation_that_means_nothing_is_upright(kind: int, count: int, value: bytes) -> None:
    image = noise(48, 32)
    data = encode(image, "PNG", exif=_exif(kind, count, value))
    assert ORIENTATION in Image.open(io.BytesIO(data)).getexif()

    assert np.array_equal(load(data, 32, 48), np.asarray(image))


def test_an_orientation_written_by_hand_turns_the_picture() -> None:
    data = encode(noise(48, 32), "PNG", exif=_exif(3, 1, b"\0\x03\0\0"))

    assert np.array_equal(load(data, 32, 48), np.asarray(noise(48, 32))[::-1, ::-1])


def test_exif_that_is_garbage_is_upright() -> None:
    image = quarters(48, 32)
    data = encode(image, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", quality=95)

    assert difference(load(data, 32, 48), np.asarray(image)) < 2


def test_crop_ratio_keeps_that_share_of_the_short_side_about_the_centre() -> None:
    image = plain((0, 0, 255), 120, 80)
    image.paste((255, 0, 0), (40, 20, 80, 60))  # 40 of 80 pixels, centred
    data = encode(image, "PNG")

    half = load(data, 20, 20, crop_ratio=0.5)
    whole = load(data, 20, 20, crop_ratio=1.0)

    # The resampling kernel reaches two pixels over the edge of the box.
    assert_colour(half[2:-2, 2:-2], (255, 0, 0))
    assert_colour(whole[7:13, 7:13], (255, 0, 0))
    assert_colour(whole[:3], (0, 0, 255))
    assert_colour(whole[:, :3], (0, 0, 255))


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90)])
def test_the_longer_side_loses_both_ends_alike(width: int, height: int) -> None:
    image = plain((255, 255, 255), width, height)
    middle = (30, 0, 60, 30) if width > height else (0, 30, 30, 60)
    image.paste((0, 0, 0), middle)

    assert_colour(load(encode(image, "PNG"), 30, 30)[2:-2, 2:-2], (0, 0, 0))


def test_the_crop_has_the_proportions_of_the_result() -> None:
    image = noise(60, 60)

    pixels = load(encode(image, "PNG"), 20, 60)

    assert np.array_equal(pixels, np.asarray(image)[20:40])


def test_shrinking_averages_and_does_not_pick_single_pixels() -> None:
    stripes = np.zeros((160, 160, 3), dtype=np.uint8)
    stripes[:, ::2] = 255

    assert_colour(load(encode(Image.fromarray(stripes), "PNG"))[:, 1:-1], (128, 128, 128), tolerance=1)


def test_resizing_is_bicubic_with_antialiasing() -> None:
    image = noise(70, 70)

    assert np.array_equal(load(encode(image, "PNG")), np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(("width", "height", "out"), [(3, 6, 187), (6, 3, 187), (3, 8, 273)])
def test_a_crop_box_that_rounding_would_push_over_the_edge_is_accepted(width: int, height: int, out: int) -> None:
    assert_colour(load(encode(plain((200, 100, 50), width, height), "PNG"), out, out), (200, 100, 50))


def test_a_jpeg_is_scaled_down_while_it_is_decoded() -> None:
    data = encode(plain(width=2000, height=1500), "JPEG")

    tracemalloc.start()
    load(data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 2000 * 1500 * 3 / 32, "an eighth of each side is a 64th of the pixels"


@pytest.mark.parametrize("width", [160, 333, 1000])
def test_a_jpeg_decoded_small_is_close_to_one_decoded_whole(width: int) -> None:
    photo = Image.blend(quarters(width, 700), noise(width, 700).resize((60, 60)).resize((width, 700)), 0.4)
    data = encode(photo, "JPEG", quality=90)
    whole = encode(Image.open(io.BytesIO(data)).convert("RGB"), "PNG")

    small, reference = load(data, 48, 48, crop_ratio=0.9), load(whole, 48, 48, crop_ratio=0.9)

    assert difference(small, reference) < 1.5
    assert np.abs(small.astype(int) - reference).max() <= 16


# --- what is refused


def test_no_bytes_are_refused_as_empty() -> None:
    message = r"^the image is empty \(0 bytes\); send the bytes of a JPEG, PNG, WebP, BMP or GIF file$"
    with pytest.raises(EmptyImageError, match=message):
        load(b"")


def test_text_is_refused_with_how_it_begins() -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        load(b"hello, this is a text")

    assert str(caught.value) == (
        "the content is not an image that is accepted (it begins with b'hello, t'); send JPEG, PNG, WebP, BMP or GIF"
    )


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA"])
def test_a_format_that_pillow_knows_and_we_do_not_accept_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedFormatError, match="send JPEG, PNG, WebP, BMP or GIF"):
        load(encode(plain(), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
@pytest.mark.parametrize("kept", [0.4, 0.7, 0.95])
def test_a_file_cut_off_in_its_pixels_is_refused_by_format(kind: str, kept: float) -> None:
    data = encode(noise(100, 80), kind)

    with pytest.raises(UnreadableImageError, match=rf"^the {kind} image is broken or cut off: .*(truncated|Premature end)"):
        load(data[: int(len(data) * kept)])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_off_in_its_header_is_refused(kind: str) -> None:
    data = encode(noise(100, 80), kind)

    for length in range(1, 30):
        with pytest.raises((UnsupportedFormatError, UnreadableImageError), match=r"it begins with|header cannot be read"):
            load(data[:length])


@pytest.mark.parametrize("options", [{}, {"exif": _exif(3, 1, b"\0\1\0\0")}], ids=["plain", "with_exif"])
def test_a_png_with_a_broken_byte_among_its_pixels_is_refused_and_not_half_decoded(options: dict[str, bytes]) -> None:
    data = encode(noise(100, 80), "PNG", **options)

    for position in range(len(data) // 8, len(data) - 100, len(data) // 8):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        with pytest.raises(UnreadableImageError, match="^the PNG image is broken or cut off: "):
            load(bytes(broken))


def test_a_webp_cut_off_anywhere_is_refused() -> None:
    data = encode(noise(40, 40), "WEBP")

    for length in range(1, len(data), 97):
        with pytest.raises((UnsupportedFormatError, UnreadableImageError)):
            load(data[:length])


@pytest.mark.parametrize("kind", FORMATS)
def test_garbage_after_the_image_is_ignored(kind: str) -> None:
    data = encode(noise(40, 40), kind)

    assert np.array_equal(load(data + b"\x00garbage\xff\xd9" * 50), load(data))


def test_a_jpeg_whose_pixels_end_before_its_end_marker_is_refused_and_not_half_grey() -> None:
    data = encode(noise(100, 80), "JPEG")

    with pytest.raises(UnreadableImageError):
        load(data[: len(data) // 2] + b"\xff\xd9")


@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xc0", b"\xff\xda", b"\xff\xd9"], ids=["tables", "frame", "scan", "end"])
def test_stray_bytes_before_a_marker_of_a_jpeg_that_viewers_forgive_are_forgiven(marker: bytes) -> None:
    data = encode(quarters(64, 64), "JPEG", quality=95)
    at = data.rindex(marker)

    # Not to the last bit: libjpeg-turbo refuses some of them, and Pillow decodes instead.
    assert difference(load(data[:at] + b"\x12\x34\x56" + data[at:]), load(data)) < 1


def test_a_header_over_header_px_is_refused_with_its_sizes() -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        load(encode(plain(width=12, height=10), "PNG"), limits=Limits(header_px=119))

    assert str(caught.value) == "the image declares 12 x 10 = 120 pixels; at most 119 are accepted"


def jpeg_declaring(width: int, height: int) -> bytes:
    """A JPEG whose header says that it is larger than it is."""
    data = bytearray(encode(plain(), "JPEG"))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_a_header_over_the_default_limit_is_refused_with_its_pixels() -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        load(jpeg_declaring(12_000, 9_000))

    assert str(caught.value) == "the image declares 108000000 pixels; at most 100000000 are accepted"


def test_a_limit_that_pillow_would_not_let_through_is_refused() -> None:
    with pytest.raises(ValueError, match="^header_px is 200000000, expected at most 100000000$"):
        Limits(header_px=200_000_000)


def test_an_image_within_the_limits_is_accepted_without_a_warning() -> None:
    assert_colour(load(encode(plain(128, 9_000, 9_000, "L"), "JPEG")), (128, 128, 128), tolerance=1)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_of_exactly_the_limits_is_accepted(kind: str) -> None:
    data = encode(plain(width=12, height=10), kind)

    assert load(data, limits=Limits(header_px=120, decoded_px=120)).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
def test_an_image_over_decoded_px_is_refused_with_its_sizes(kind: str) -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        load(encode(plain(width=12, height=10), kind), limits=Limits(decoded_px=119))

    assert str(caught.value) == (
        f"the {kind} image declares 12 x 10 pixels, which decode to more than 119; "
        "send a smaller one (a JPEG is scaled down while it is decoded, other formats are not)"
    )


@pytest.mark.parametrize(
    "options", [{"format": "JPEG"}, {"format": "MPO", "save_all": True, "append_images": [plain()]}], ids=["JPEG", "MPO"]
)
def test_a_jpeg_counts_as_what_it_is_scaled_down_to(options: dict[str, Any]) -> None:
    data = encode(plain((200, 100, 50), 640, 320), **options)  # for 40 x 40 an eighth is enough: 80 x 40

    assert_colour(load(data, 40, 40, limits=Limits(decoded_px=3200)), (200, 100, 50), tolerance=3)
    with pytest.raises(
        ImageTooLargeError, match=r"^the (JPEG|MPO) image declares 640 x 320 pixels, which decode to more than 3199;"
    ):
        load(data, 40, 40, limits=Limits(decoded_px=3199))
    # A smaller crop needs a larger picture.
    with pytest.raises(ImageTooLargeError):
        load(data, 40, 40, crop_ratio=0.9, limits=Limits(decoded_px=3200))


def test_a_cmyk_jpeg_is_not_scaled_and_counts_whole() -> None:
    data = encode(plain((0, 0, 0, 0), 64, 64, "CMYK"), "JPEG")

    assert load(data, limits=Limits(decoded_px=64 * 64)).shape == (16, 16, 3)
    with pytest.raises(ImageTooLargeError, match="the JPEG image declares 64 x 64 pixels"):
        load(data, limits=Limits(decoded_px=64 * 64 - 1))


def test_a_48_megapixel_jpeg_is_accepted_because_it_is_scaled_down() -> None:
    data = encode(plain((0, 0, 255), 8000, 6000), "JPEG", quality=50)
    assert DEFAULT_LIMITS.decoded_px < 8000 * 6000

    assert_colour(load(data, 224, 224, crop_ratio=0.9), (0, 0, 255), tolerance=3)


@pytest.fixture(scope="module")
def huge() -> bytes:
    """A PNG of 9000 x 9000 pixels in a few kilobytes."""
    return huge_png()


def test_an_81_megapixel_png_is_refused_in_under_half_a_second(huge: bytes) -> None:
    assert len(huge) < 20_000

    began = time.process_time()
    with pytest.raises(ImageTooLargeError, match=r"^the PNG image declares 9000 x 9000 pixels, .* more than 25000000;"):
        load(huge)

    assert time.process_time() - began < 0.5


def allocated_blocks(data: bytes) -> int:
    """How many blocks of up to 16 MiB Pillow takes for pixels until it refuses `data`; a palette takes one."""
    Image.core.reset_stats()
    with pytest.raises(ImageTooLargeError):
        load(data)
    stats = Image.core.get_stats()
    return stats["allocated_blocks"] + stats["reused_blocks"]


def gif_declaring(side: int, disposal: int) -> bytes:
    """50 bytes whose one frame is `side` pixels square, and is disposed of as told: 1 leaves it, 2 paints it over."""
    data = bytearray(encode(plain(0, 4, 4, "P"), "GIF", save_all=True, append_images=[plain(1, 4, 4, "P")], disposal=disposal))
    assert len(data) == 50
    frame = data.index(b",\0\0\0\0")
    data[6:10] = data[frame + 5 : frame + 9] = struct.pack("<HH", side, side)
    return bytes(data)


def test_an_81_megapixel_png_is_refused_from_its_header_without_decoding_it(huge: bytes) -> None:
    assert allocated_blocks(huge) <= 1


def test_an_81_megapixel_bmp_is_refused_from_its_header_without_decoding_it() -> None:
    assert allocated_blocks(encode(Image.new("1", (9000, 9000)), "BMP")) <= 1


def test_an_81_megapixel_gif_is_refused_from_its_header_without_decoding_it() -> None:
    assert allocated_blocks(gif_declaring(9000, disposal=1)) <= 1


def test_a_gif_that_paints_a_huge_frame_over_is_refused_without_painting_it() -> None:
    assert allocated_blocks(gif_declaring(15_000, disposal=2)) <= 2


# --- any bytes at all

_MAGIC = (
    b"",
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    b"BM",
    b"GIF89a",
)


def _seeds() -> list[bytes]:
    image = noise(20, 14)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    animation = image.convert("P")
    return [
        *(encode(image, kind) for kind in FORMATS),
        *(encode(image, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")),
        encode(image, "JPEG", progressive=True),
        encode(image, "MPO", save_all=True, append_images=[image]),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("P"), "PNG", transparency=3),
        encode(image.convert("LA"), "PNG"),
        encode(plain(30000, mode="I;16"), "PNG"),
        encode(image, "WEBP", lossless=True),
        encode(image.convert("1"), "BMP"),
        encode(animation, "GIF", save_all=True, append_images=[animation.rotate(180)], transparency=0),
    ]


_SEEDS = _seeds()
_EDITS = st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=4), st.booleans()), max_size=6)


def assert_an_image_or_an_image_error(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        pixels = load_image(data, WHOLE, 8, 12, SMALL)
        assert (pixels.shape, pixels.dtype) == ((8, 12, 3), np.uint8)


@settings(max_examples=200, deadline=None)
@given(magic=st.sampled_from(_MAGIC), rest=st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_an_image_error(magic: bytes, rest: bytes) -> None:
    assert_an_image_or_an_image_error(magic + rest)


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from(_SEEDS), edits=_EDITS, kept=st.none() | st.integers(0, 3000))
def test_a_mutated_image_raises_nothing_but_an_image_error(
    data: bytes, edits: list[tuple[int, bytes, bool]], kept: int | None
) -> None:
    mutated = bytearray(data[:kept])
    for position, piece, insert in edits:
        at = position % (len(mutated) + 1)
        mutated[at : at if insert else at + len(piece)] = piece

    assert_an_image_or_an_image_error(bytes(mutated))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    out=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop_ratio=st.floats(0.05, 1.0),
    kind=st.sampled_from(FORMATS),
)
def test_any_size_any_result_and_any_crop_of_one_colour_is_that_colour(
    size: tuple[int, int], out: tuple[int, int], crop_ratio: float, kind: str
) -> None:
    pixels = load(encode(plain((200, 100, 50), *size), kind), *out, crop_ratio)

    assert pixels.shape == (*out, 3)
    assert_colour(pixels, (200, 100, 50), tolerance=4)
