"""From a report of a look at a data set to findings: sentences, counts, and a few names, for whoever uploaded it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.dataset_card import MOST_EXAMPLES, Finding
from models.splits import MIN_FOR_CALIBRATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from models.dataset_card import Kind
    from models.scan_report import Conflict, Leaked, LeftOut, Listed, ScanReport, T

_NAMED_OF_A_GROUP = 3


def find(report: ScanReport, labels: Mapping[str, int]) -> Iterator[Finding]:
    """What whoever trains on it should know.

    Args:
        report: Of the look.
        labels: Images of each label, of which there should be enough; empty where labels are not known, or are numbers.
    """
    yield from _listed("unreadable", report.unreadable, "do not decode, and are left out", _reason)
    yield from _listed("left_out", report.skipped, "are no images, or have no label, and are left out", _reason, "files")
    yield from _listed("leaks", report.leaks, "are left out of their split, since a stricter one holds a copy", _leak)
    yield from _listed("equal_copies", report.exact_copies, "are equal, byte by byte", _group, "groups of images")
    yield from _listed("near_copies", report.near_copies, "are nearly equal", _group, "groups of images")
    yield from _listed(
        "contradictions", report.conflicts, "have different labels, of which one at most is right", _conflict, "groups of copies"
    )
    few = [label for label, count in labels.items() if count < MIN_FOR_CALIBRATION]
    if few:
        sentence = f"{len(few)} labels have fewer than {MIN_FOR_CALIBRATION} images: too few to calibrate on"
        examples = tuple(f"{label}: {labels[label]}" for label in few[:MOST_EXAMPLES])
        yield Finding(kind="few_images", count=len(few), sentence=sentence, examples=examples)
    for note in report.notes:
        yield remark("note", note)


def remark(kind: Kind, sentence: str, count: int = 1) -> Finding:
    """A finding without examples."""
    return Finding(kind=kind, count=count, sentence=sentence, examples=())


def _listed(kind: Kind, found: Listed[T], sentence: str, words: Callable[[T], str], what: str = "images") -> Iterator[Finding]:
    if found.count:
        examples = tuple(words(entry) for entry in found.first[:MOST_EXAMPLES])
        yield Finding(kind=kind, count=found.count, sentence=f"{found.count} {what} {sentence}", examples=examples)


def _reason(entry: LeftOut) -> str:
    return f"{entry.file}: {entry.reason}"


def _leak(leak: Leaked) -> str:
    return f"{leak.file} is {'' if leak.kind == 'exact' else 'nearly '}{leak.copy_of}"


def _group(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - _NAMED_OF_A_GROUP} more" if len(files) > _NAMED_OF_A_GROUP else ""
    return ", ".join(files[:_NAMED_OF_A_GROUP]) + more


def _conflict(conflict: Conflict) -> str:
    said = [f"{entry.file} is {entry.label}" for entry in conflict.files[:_NAMED_OF_A_GROUP]]
    return ", ".join(said)
