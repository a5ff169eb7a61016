"""Sections that every task has: what was compared, how training went, what the data was, the recipe, the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.dataset import SPLITS
from models.recipe import Recipe
from models.scores import RegressionMetrics
from training.page.course import course
from training.page.parts import Bullets, Cell, Fold, Part, Section, Table, Text, counted, number, points

if TYPE_CHECKING:
    from models.manifest import Manifest, Metrics
    from models.scores import AnyMetrics
    from training.page.source import Source

CANDIDATES = {
    "probe": "linear probe",
    "last": "last weights",
    "ema": "weight average",
}
_CAPTION = (
    "Before calibration. The probe is a linear classifier on the untouched network; fine-tuning ends with its last weights "
    "and with an average of the weights along the way."
)
_MOST_FINDINGS = 12
_DASH = "\N{EN DASH}"


def training_section(source: Source) -> Section:
    """What was compared, which was taken, and how training went."""
    parts: list[Part] = []
    metrics = source.manifest.metrics
    if metrics is not None and metrics.chosen is not None:
        parts += [_compared(metrics), Text(_choice(metrics))]
    else:
        parts.append(Text("Published as it came: nothing was trained, so there is nothing to compare."))
    parts += course(source.history, source.manifest.task)
    return Section("training", "What was compared", tuple(parts))


def _compared(metrics: Metrics) -> Table:
    names = [name for name in CANDIDATES if name in metrics.validation or name in metrics.test]
    columns = [(split, blocks) for split, blocks in (("validation", metrics.validation), ("test", metrics.test)) if blocks]
    head = ["candidate"]
    for split, blocks in columns:
        block = next(iter(blocks.values()))
        head += [f"{split} {block.headline[0]}", f"{split} {_loss_name(block)}"]
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        cells: list[Cell] = [CANDIDATES[name]]
        for _, blocks in columns:
            cells += _headline_and_loss(blocks.get(name))
        rows.append(tuple(cells))
    chosen = frozenset(index for index, name in enumerate(names) if name == metrics.chosen)
    return Table(_CAPTION, tuple(head), tuple(rows), chosen)


def _headline_and_loss(block: AnyMetrics | None) -> tuple[str, str]:
    if block is None:
        return _DASH, _DASH
    name, value = block.headline
    return (f"{value:.3f}" if name == "R2" else points(value)), (
        number(block.loss) if isinstance(block, RegressionMetrics) else f"{block.loss:.3f}"
    )


def _loss_name(block: AnyMetrics) -> str:
    return "RMSE" if isinstance(block, RegressionMetrics) else "NLL"


def _choice(metrics: Metrics) -> str:
    chosen = CANDIDATES[str(metrics.chosen)]
    if not metrics.validation:
        return f"Published: the {chosen}. There was no validation split to choose by."
    name = _loss_name(next(iter(metrics.validation.values())))
    return f"Published: the {chosen}, which has the lowest {name} on validation. The test split had no say in it."


def findings(source: Source) -> list[Part]:
    """What the scan found, and how many files were left out."""
    card = source.manifest.dataset
    parts: list[Part] = []
    if source.other_data is None and card is not None and card.skipped:
        parts.append(Text(f"{counted(card.skipped, 'file was', 'files were')} left out, because they could not be used."))
    lines = source.review.findings if source.review else ()
    if lines:
        parts.append(Bullets(lines[:_MOST_FINDINGS]))
        if len(lines) > _MOST_FINDINGS:
            parts.append(Fold(f"{len(lines) - _MOST_FINDINGS} more findings", "", (Bullets(lines[_MOST_FINDINGS:]),)))
    return parts


def sizes_table(manifest: Manifest) -> list[Part]:
    """Only how many images each split had: where there is no review."""
    if manifest.dataset is None:
        return [Text("No data of ours: the network is as others trained it.")]
    splits = [(split, manifest.dataset.splits[split]) for split in SPLITS if split in manifest.dataset.splits]
    return [Table("Images of each split.", ("split", "images"), tuple((split, f"{count:,}") for split, count in splits))]


def recipe_section(manifest: Manifest) -> Section | None:
    """Every choice that training made, those that are not the default's first."""
    recipe = manifest.recipe
    if recipe is None:
        return None

    def row(key: str) -> tuple[Cell, ...]:
        return key, _spelt(getattr(recipe, key)), Recipe.model_fields[key].description or ""

    keys = list(Recipe.model_fields)
    decided = [key for key in keys if getattr(recipe, key) != Recipe.model_fields[key].default]
    head, text = ("key", "value", "meaning"), frozenset({0, 1, 2})
    parts: list[Part] = []
    if decided:
        rows = tuple(row(key) for key in decided)
        parts.append(Table("What was asked for, or decided from the data and the device.", head, rows, text_columns=text))
    everything = Table("Every key.", head, tuple(row(key) for key in keys), text_columns=text)
    parts.append(Fold(f"All {len(keys)} keys", "", (everything,)))
    return Section("recipe", "Recipe", tuple(parts))


def _spelt(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "auto" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def environment_section(manifest: Manifest) -> Section:
    """What it was made with."""
    size = f"{manifest.input.width} \N{MULTIPLICATION SIGN} {manifest.input.height} px"
    facts: list[tuple[Cell, ...]] = [
        ("created", f"{manifest.created:%Y-%m-%d %H:%M} UTC"),
        ("backbone", manifest.backbone.name),
        ("weights it started from", manifest.backbone.weights),
        ("licence of those", manifest.backbone.licence),
        ("input", size),
    ]
    if manifest.parent:
        facts.append(("parent", manifest.parent))
    if manifest.run:
        facts.append(("job", manifest.run))
    if manifest.dataset:
        facts.append(("data fingerprint", manifest.dataset.fingerprint))
    facts += [(name, version) for name, version in sorted(manifest.libraries.items())]
    table = Table("Origin and versions.", ("what", "value"), tuple(facts), text_columns=frozenset({0, 1}))
    return Section("environment", "Environment", (table,))
