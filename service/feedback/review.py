"""What is worth labelling first: three orders over the images that have no label, page by page.

An order is a number from a sidecar's name, then the id; the id is a hash of the image, so it is an order of its own that
depends on nothing an image shows. A cursor is a place in that order: what is labelled, kept or deleted between two pages
moves no other image over it.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from service.errors import BadRequestError
from service.feedback.schema import ID_DIGITS
from service.feedback.store import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.feedback.store import Entry, FeedbackStore

Strategy = Literal["margin", "unknown", "random"]
_PLACE = re.compile(rf"(margin|unknown|random)\.(\d{{7}})\.([0-9a-f]{{{ID_DIGITS}}})")
_NUMBERS: dict[Strategy, Callable[[Entry], str]] = {
    "margin": lambda entry: entry.margin,
    "unknown": lambda entry: entry.p_familiar,
    "random": lambda _: "0000000",
}


@dataclass(frozen=True)
class Waiting:
    """A page of the queue.

    Attributes:
        entries: In order.
        total: How many the order has.
        unordered: How many more wait that have no such number.
        labelled: How many have a label.
        next_cursor: None on the last page.
    """

    entries: list[Entry]
    total: int
    unordered: int
    labelled: int
    next_cursor: str | None


def review(store: FeedbackStore, model: str, strategy: Strategy, limit: int, cursor: str | None) -> Waiting:
    """Answer one page.

    Args:
        store: What is kept.
        model: Whose images.
        strategy: margin: the closest decisions first. unknown: the strangest images first. random: by the image's hash.
        limit: How many at most.
        cursor: Where the page before ended.

    Raises:
        BadRequestError: If the cursor is of another order, or none.
    """
    start = None if cursor is None else _start(cursor, strategy)
    labelled = store.labelled(model)
    # By id: two processes that keep an image at the same moment write two sidecars.
    entries = {entry.id: entry for entry in store.entries(model) if entry.id not in labelled}
    number = _NUMBERS[strategy]
    places = [(place, one) for one, entry in entries.items() if (place := number(entry)) != UNKNOWN]
    after = places if start is None else [place for place in places if place > start]
    shown = heapq.nsmallest(limit, after)
    more = ".".join((strategy, *shown[-1])) if len(after) > limit else None
    found = [entries[one] for _, one in shown]
    return Waiting(found, len(places), len(entries) - len(places), len(labelled), more)


def _start(cursor: str, strategy: Strategy) -> tuple[str, str]:
    found = _PLACE.fullmatch(cursor)
    if found is None or found[1] != strategy:
        raise BadRequestError(f"cursor {cursor!r:.80} is not of the strategy {strategy}; begin again without one")
    return found[2], found[3]
