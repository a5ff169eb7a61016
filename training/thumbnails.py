"""Small pictures of the images that a review lists, as the network saw them: cropped and scaled by its preprocessing.

At most 1,500 of them and 5 MB in all, so that an artifact stays small to copy and its report small to send. Where more
images are listed, suspected labels and the largest losses come first, then the weakest labels, the head of each list before
its tail.
"""

from __future__ import annotations

import io
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.review import weakest_first
from models.review_schema import MultiLabelReview, RegressionReview, SingleLabelReview
from training.subject import name_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from models.dataset import Split
    from models.review_schema import LabelReview, Review, TagReview
    from training.subject import Outputs

SIDE_PX = 96
MOST_IMAGES = 1_500
MOST_BYTES = 5_000_000
# Of so many labels every list is pictured before any other label's.
MOST_SHOWN_LABELS = 60
_QUALITY = 82


def make_thumbnails(review: Review, outputs: Mapping[Split, Outputs]) -> dict[str, bytes]:
    """A JPEG of at most 96 px a side for the images that `review` lists, by id.

    Args:
        review: Made from `outputs`.
        outputs: Of every split.
    """
    ids = list(dict.fromkeys(listed(review)))
    pixels = _pixels(set(ids), outputs)
    made: dict[str, bytes] = {}
    size = 0
    for image_id in ids[:MOST_IMAGES]:
        data = encode(pixels[image_id])
        size += len(data)
        if size > MOST_BYTES:
            break
        made[image_id] = data
    return made


def listed(review: Review) -> Iterator[str]:
    """The ids of all images that a review lists, by how much somebody will want to see them; some more than once."""
    if isinstance(review, RegressionReview):
        yield from review.largest_errors
    elif isinstance(review, MultiLabelReview):
        order = weakest_first([entry.scores for entry in review.per_label])
        yield from _in_turn([_tag_lists(review.per_label[index]) for index in order])
    else:
        yield from _of_single_label(review)


def _of_single_label(review: SingleLabelReview) -> Iterator[str]:
    if review.suspects is not None:
        yield from (suspect.id for suspect in review.suspects.listed)
    yield from review.top_losses
    if review.questions:
        yield from _in_turn([_lists(review.questions[index]) for index in weakest_first(review.per_label)])


def _lists(entry: LabelReview) -> list[Sequence[str]]:
    by_predicted, by_actual = entry.predicted, entry.actual
    return [
        by_predicted.confidently_wrong,
        by_actual.confidently_wrong,
        by_predicted.most_confident,
        by_predicted.least_confident,
        by_actual.least_confident,
        by_predicted.unfamiliar or (),
        by_actual.unfamiliar or (),
    ]


def _tag_lists(entry: TagReview) -> list[Sequence[str]]:
    return [[one.id for one in some] for some in (entry.false_alarms, entry.missed, entry.most_sure, entry.unsure)]


def _in_turn(labels: Sequence[list[Sequence[str]]]) -> Iterator[str]:
    """The heads of all lists of the first labels, then what comes second, and so on; then the same of the other labels."""
    for group in (labels[:MOST_SHOWN_LABELS], labels[MOST_SHOWN_LABELS:]):
        lists: Iterable[Sequence[str]] = chain.from_iterable(group)
        yield from (image_id for turn in zip_longest(*lists) for image_id in turn if image_id is not None)


def _pixels(ids: set[str], outputs: Mapping[Split, Outputs]) -> dict[str, npt.NDArray[np.uint8]]:
    return {
        name: outputs[split].images.pixels[row]
        for split, names in name_images(outputs).items()
        for row, name in enumerate(names)
        if name is not None and name in ids
    }


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A JPEG of uint8 `[H, W, 3]`, its longer side at most 96 px; a smaller image keeps its size."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
