"""From what an artifact holds to a page: what stands first, and in which order the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.review_schema import MultiLabelReview, RegressionReview, SingleLabelReview
from training.page import other_tasks, single_label
from training.page.facts import environment_section, findings, recipe_section, sizes_table, training_section
from training.page.parts import NBSP, Page, Section, Text, Tile, counted, number, percent
from training.page.trust import trust_section

if TYPE_CHECKING:
    from training.page.source import Source

_NO_REVIEW = "This version was published without a look at its answers image by image, so there is nothing to show of them."


def build(source: Source) -> Page:
    """Lay out everything that is known."""
    manifest = source.manifest
    lead, told, tiles, middle = _by_task(source)
    sections: list[Section | None] = [] if source.other_data else [trust_section(source.confidence), training_section(source)]
    sections += middle
    if source.other_data is None:
        sections.append(recipe_section(manifest))
    sections.append(environment_section(manifest))
    size = f"{counted(len(manifest.labels), 'label')}" if manifest.task != "regression" else "a number"
    subtitle = f"{manifest.backbone.name} at {manifest.input.width} px, {size}, made {manifest.created:%Y-%m-%d}"
    return Page(
        title=manifest.reference + (f" on {source.other_data}" if source.other_data else ""),
        subtitle=subtitle,
        lead=lead,
        sentences=tuple(sentence for sentence in (_calibration(source), *told, *_overfit(source)) if sentence),
        tiles=tuple(tiles),
        sections=tuple(section for section in sections if section is not None),
    )


def _by_task(source: Source) -> tuple[str, list[str], list[Tile], list[Section]]:
    review, other = source.review, source.other_data
    if isinstance(review, SingleLabelReview):
        told = single_label.sentences(review, other)
        return single_label.lead(review, other), told, single_label.tiles(review), single_label.sections(source, review)
    if isinstance(review, MultiLabelReview):
        lead = other_tasks.lead_multi_label(review, other)
        return lead, [], other_tasks.tiles_multi_label(review), other_tasks.sections_multi_label(source, review)
    if isinstance(review, RegressionReview):
        lead = other_tasks.lead_regression(review, other)
        return lead, [], other_tasks.tiles_regression(review), other_tasks.sections_regression(source, review)
    data = Section("data", "Data", (*sizes_table(source.manifest), *findings(source), Text(_NO_REVIEW, is_note=True)))
    return _NO_REVIEW, [], [], [data]


def _overfit(source: Source) -> list[str]:
    return [] if source.history is None or source.other_data else [source.history.overfit.sentence]


def _calibration(source: Source) -> str:
    """Whether what it states was measured against what is so."""
    temperature, interval = source.confidence.temperature, source.confidence.interval
    is_number = source.manifest.task == "regression"
    if interval is not None:
        unit = f"{NBSP}{source.manifest.unit}" if source.manifest.unit else ""
        near = f"For {percent(interval.level, 0)} of images the truth lies within {number(interval.half_width)}{unit}"
        why = f"; {interval.reason}" if interval.reason else ""
        return f"{near} of the answer (measured on {counted(interval.images, 'image')}{why})."
    what, verb = ("How far its answers may be off", "was") if is_number else ("Its probabilities", "were")
    done = "measured" if is_number else "calibrated"
    if temperature.status == "none":
        return f"{what} {verb} not {done}: {temperature.reason}."
    said = f"{what} {verb} {done} on {counted(temperature.images, 'image')}"
    if not is_number:
        said += f" (temperature {temperature.value:.2f})"
    return f"{said}." if temperature.status == "ok" else f"{said}, only in part: {temperature.reason}."
