"""From bytes to the graph's input: the one function that training's evaluation and the service both call.

Owns decoding with its limits, orientation, colour, crop and resize. Knows nothing of normalisation (that is in the
graph), of augmentation (training) or of HTTP. What the two sides do cannot drift apart, because it is this.

JPEGs are decoded by libjpeg-turbo at the smallest DCT scale that still covers what is needed (about eight times as fast
on a 12-megapixel photo), everything else by Pillow. Crop and resize are one antialiased bicubic resampling.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from models.errors import EmptyImageError, ImageTooLargeError, UnreadableImageError, UnsupportedFormatError
from models.manifest import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

MOST_PIXELS = 100_000_000

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """What an image may cost before it is decoded.

    Attributes:
        header_px: Most pixels that a header may declare; at most 100 million, where Pillow's own guard stands.
        decoded_px: Most pixels that decoding may produce; JPEGs are scaled down while they are decoded, others are not.
    """

    header_px: int = MOST_PIXELS
    decoded_px: int = 25_000_000

    def __post_init__(self) -> None:
        """Refuse a limit that Pillow would not let through.

        Raises:
            ValueError: If `header_px` is over 100 million.
        """
        if self.header_px > MOST_PIXELS:
            raise ValueError(f"header_px is {self.header_px}, expected at most {MOST_PIXELS}")


DEFAULT_LIMITS = Limits()
# Pillow looks where a header does not: at the frames inside a GIF. Over this it warns, and over twice this it raises.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


def standard_preprocessing(crop_ratio: float) -> Preprocessing:
    """Describe what `load_image` does, with the one thing that varies: the share of the short side that is kept."""
    return Preprocessing(
        jpeg_decoder="simplejpeg",
        decoder="pillow",
        orientation="exif",
        colour="rgb",
        alpha="over_white",
        resize="bicubic_antialias",
        crop="centre",
        crop_ratio=crop_ratio,
    )


def load_image(data: bytes, preprocessing: Preprocessing, height: int, width: int, limits: Limits = DEFAULT_LIMITS) -> UInt8Array:
    """Decode, orient, crop and resize one image.

    Args:
        data: The file's bytes. The content decides the format, never a name or a header.
        preprocessing: The artifact's own.
        height: Pixels of the result.
        width: Pixels of the result.
        limits: Checked on the header, before any pixel is decoded.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        EmptyImageError: If there are no bytes.
        UnsupportedFormatError: If the bytes are not JPEG, PNG, WebP, BMP or GIF.
        ImageTooLargeError: If the header declares more than the limits allow.
        UnreadableImageError: If decoding fails.
    """
    image = _open(data, limits)
    turned = _orientation(image)
    # The orientation is undone on the small result, so a quarter turn swaps what is asked of the large one.
    out = (height, width) if turned >= 5 else (width, height)
    pixels = _decode(data, image, preprocessing.crop_ratio, out, limits)
    small = pixels.resize(out, Image.Resampling.BICUBIC, box=_crop_box(pixels.size, out, preprocessing.crop_ratio))
    if turned != 1:
        small = small.transpose(_UNDO[turned])
    return np.asarray(small, dtype=np.uint8)


def seen_box(
    data: bytes, preprocessing: Preprocessing, height: int, width: int, limits: Limits = DEFAULT_LIMITS
) -> tuple[float, float, float, float]:
    """Which part of the upright image `load_image` keeps: left, top, right, bottom, as shares of its width and height.

    Raises:
        ImageError: As `load_image`, of what the header shows.
    """
    image = _open(data, limits)
    across, down = image.size if _orientation(image) < 5 else image.size[::-1]
    left, top, right, bottom = _crop_box((across, down), (width, height), preprocessing.crop_ratio)
    return left / across, top / down, right / across, bottom / down


_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise EmptyImageError("the image is empty (0 bytes); send the bytes of a JPEG, PNG, WebP, BMP or GIF file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as err:
        raise UnsupportedFormatError(
            f"the content is not an image that is accepted (it begins with {data[:8]!r}); send JPEG, PNG, WebP, BMP or GIF"
        ) from err
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        # Pillow's sentence holds the number: "Image size (N pixels) exceeds limit ...".
        got = next((word.lstrip("(") for word in str(err).split() if word.startswith("(")), "too many")
        raise ImageTooLargeError(f"the image declares {got} pixels; at most {limits.header_px} are accepted") from err
    except _DECODE_ERRORS as err:
        raise UnreadableImageError(f"the image's header cannot be read: {err}") from err
    declared = image.width * image.height
    if declared > limits.header_px:
        raise ImageTooLargeError(
            f"the image declares {image.width} x {image.height} = {declared} pixels; at most {limits.header_px} are accepted"
        )
    return image


# What Pillow's readers raise on bytes that are wrong: they are not all of one family.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; anything unreadable is 1 (upright). Only what the header held: `getexif` may load a PNG."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and value in _UNDO else 1


def _decode(data: bytes, image: Image.Image, crop_ratio: float, out: tuple[int, int], limits: Limits) -> Image.Image:
    """Decode to RGB, a JPEG at the smallest scale at which the crop still covers `out` (width, height)."""
    if image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"}:
        need_width, need_height = math.ceil(out[0] / crop_ratio), math.ceil(out[1] / crop_ratio)
        if _scaled_pixels(image.size, need_width, need_height) > limits.decoded_px:
            raise _too_large(image, limits)
        try:
            rgb = simplejpeg.decode_jpeg(
                data, "RGB", fastdct=False, fastupsample=False, min_height=need_height, min_width=need_width
            )
            return Image.fromarray(rgb)
        except ValueError as err:
            if "extraneous" not in str(err):
                raise UnreadableImageError(f"the JPEG image is broken or cut off: {err}") from err
            # Stray bytes between the parts, which every viewer forgives; libjpeg called strictly does not.
            image.draft("RGB", (need_width, need_height))
    if image.width * image.height > limits.decoded_px:
        raise _too_large(image, limits)
    try:
        return _to_rgb(image)
    except _DECODE_ERRORS as err:
        raise UnreadableImageError(f"the {image.format} image is broken or cut off: {err}") from err


def _too_large(image: Image.Image, limits: Limits) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"the {image.format} image declares {image.width} x {image.height} pixels, which decode to more than "
        f"{limits.decoded_px}; send a smaller one (a JPEG is scaled down while it is decoded, other formats are not)"
    )


def _scaled_pixels(size: tuple[int, int], need_width: int, need_height: int) -> int:
    """Pixels after DCT scaling by k/8, the smallest k that keeps both sides at least as long as needed."""
    width, height = size
    for k in range(1, 8):
        if math.ceil(width * k / 8) >= need_width and math.ceil(height * k / 8) >= need_height:
            return math.ceil(width * k / 8) * math.ceil(height * k / 8)
    return width * height


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: 16-bit greys are scaled, transparency lies over white."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        if isinstance(transparent := image.info.get("transparency"), int):
            grey = np.where(grey == transparent, 65535, grey)
        # Pillow opens 16-bit greyscale as I;16 or I, and its own conversion clips everything above 255 to white.
        return Image.fromarray((np.clip(grey, 0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _crop_box(size: tuple[int, int], out: tuple[int, int], crop_ratio: float) -> tuple[float, float, float, float]:
    """The centred box (left, upper, right, lower) of `out`'s proportions, `crop_ratio` of the largest that fits."""
    width, height = size
    scale = min(width / out[0], height / out[1]) * crop_ratio
    box_width, box_height = out[0] * scale, out[1] * scale
    left, upper = (width - box_width) / 2, (height - box_height) / 2
    return (max(left, 0.0), max(upper, 0.0), min(left + box_width, width), min(upper + box_height, height))
