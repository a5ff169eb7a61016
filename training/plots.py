"""The report's plots, as PNG: small figures with text that can still be read on a phone, in a light and in a dark theme.

Figures are made one by one; matplotlib's global state is not touched. Colours are Okabe and Ito's, which every eye can
tell apart, and what is told by colour is told by shape too.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes

    from models.review_schema import Bin, RegressionReview, Reliability
    from training.history import Sweep

_DPI = 200
_WIDTH_IN, _HEIGHT_IN = 4.6, 3.1
MOST_PLOTTED_LABELS = 40
# Counts are written into the cells of a confusion matrix of at most so many labels.
_MOST_NUMBERED = 20
_LONGEST_LABEL = 22


@dataclass(frozen=True)
class Theme:
    """Colours of a plot: `first` and `second` are data, `ink` is text, `faint` is everything that only helps to read."""

    paper: str
    ink: str
    faint: str
    first: str
    second: str


LIGHT = Theme(paper="#ffffff", ink="#1d2430", faint="#c9ced6", first="#0072b2", second="#d55e00")
DARK = Theme(paper="#151a21", ink="#dfe5ec", faint="#414b58", first="#56b4e9", second="#e69f00")


@dataclass(frozen=True)
class Curve:
    """One value an epoch, where it is known."""

    name: str
    points: tuple[tuple[int, float], ...]
    is_training: bool = False


def epoch_curves(panels: Sequence[tuple[str, Sequence[Curve]]], thawed: int | None, theme: Theme) -> bytes:
    """Curves over the epochs, in panels one over another.

    Args:
        panels: What the axis says, and its curves; at least one curve with a point.
        thawed: The epoch from which on all layers train, if the head alone did before.
        theme: Its colours.
    """
    shown = [(name, [curve for curve in curves if curve.points]) for name, curves in panels]
    shown = [(name, curves) for name, curves in shown if curves]
    figure = _figure(theme, _HEIGHT_IN + 1.2 * (len(shown) - 1))
    heights = (2, *(1 for _ in shown[1:]))
    grid = figure.subplots(len(shown), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    for axes, (name, curves) in zip(grid, shown, strict=True):
        _dress(axes, theme)
        axes.set_ylabel(name)
        for curve in curves:
            style, colour = ("s--", theme.second) if curve.is_training else ("o-", theme.first)
            axes.plot(*zip(*curve.points, strict=True), style, color=colour, markersize=4, label=curve.name)
        if thawed is not None:
            axes.axvline(thawed - 0.5, color=theme.faint, linestyle=":")
        if len(curves) > 1:
            _legend(axes, theme)
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return _png(figure)


def sweep_curve(sweep: Sweep, theme: Theme) -> bytes:
    """The loss at each learning rate of a sweep, with what it suggests and what was taken."""
    figure = _figure(theme)
    axes = figure.subplots()
    _dress(axes, theme)
    axes.set_xscale("log")
    axes.plot(sweep.lrs, sweep.losses, ".", color=theme.faint, markersize=4, label="loss")
    axes.plot(sweep.lrs, sweep.smoothed, "-", color=theme.first, label="smoothed")
    for rate, marker, name in ((sweep.valley, "v", "valley"), (sweep.steepest, "^", "steepest"), (sweep.chosen, "D", "taken")):
        if rate is not None:
            height = np.interp(np.log(rate), np.log(sweep.lrs), sweep.smoothed)
            colour = theme.second if name == "taken" else theme.ink
            axes.plot(rate, height, marker, color=colour, markersize=7, linestyle="none", label=f"{name} {rate:.1e}")
    # The last points are where it diverges: they would flatten all that is worth seeing.
    low, high = min(sweep.smoothed), sweep.smoothed[0]
    axes.set_ylim(low - 0.1 * (high - low or 1), high + 0.6 * (high - low or 1))
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel("loss")
    _legend(axes, theme)
    return _png(figure)


def confusion(matrix: npt.NDArray[np.int64], labels: Sequence[str], theme: Theme) -> bytes:
    """A confusion matrix: rows are actual labels, shaded by share of the row, columns are what was predicted.

    Args:
        matrix: Counts `[K, K]`.
        labels: K names; at most 40 can be read.
        theme: Its colours.
    """
    count = len(labels)
    side = max(_WIDTH_IN, 1.6 + (0.36 if count <= _MOST_NUMBERED else 0.21) * count)
    figure = _figure(theme, side, side)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("shades", [theme.paper, theme.first])
    # Errors are small beside the diagonal; the root makes a few per cent visible.
    axes.imshow(np.sqrt(shares), cmap=shades, vmin=0, vmax=1)
    names = [_short(label) for label in labels]
    axes.set_xticks(range(count), names, rotation=90, parse_math=False)
    axes.set_yticks(range(count), names, parse_math=False)
    axes.tick_params(length=0, labelsize=8 if count <= _MOST_NUMBERED else 7, labelcolor=theme.ink)
    axes.spines[:].set_color(theme.faint)
    axes.set_xlabel("predicted", color=theme.ink, fontsize=9)
    axes.set_ylabel("actual", color=theme.ink, fontsize=9)
    if count <= _MOST_NUMBERED:
        for row, column in np.argwhere(matrix):
            colour = theme.paper if np.sqrt(shares[row, column]) > 0.6 else theme.ink
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=7.5)
    return _png(figure)


def reliability(found: Reliability, theme: Theme) -> bytes:
    """Observed accuracy against stated probability, with intervals, and below it how many images each bin has."""
    figure = _figure(theme, _HEIGHT_IN + 1.2)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    for axes in (upper, lower):
        _dress(axes, theme)
    upper.plot([0, 1], [0, 1], ":", color=theme.ink, linewidth=1, label="as stated")
    _stated(upper, found.raw, theme.second, "s", "before calibration")
    _stated(upper, found.calibrated, theme.first, "o", "calibrated")
    upper.set_ylim(-0.02, 1.04)
    upper.set_ylabel("share right")
    _legend(upper, theme)
    width = 1 / len(found.calibrated)
    lower.bar(
        [one.low + width / 2 for one in found.calibrated],
        [one.images for one in found.calibrated],
        width * 0.86,
        color=theme.first,
    )
    lower.set_xlim(0, 1.01)
    lower.set_xlabel("stated probability")
    lower.set_ylabel("images")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return _png(figure)


def _stated(axes: Axes, found: Sequence[Bin], colour: str, marker: str, name: str) -> None:
    seen = [(one.stated, one.right) for one in found if one.stated is not None and one.right is not None]
    axes.errorbar(
        [stated for stated, _ in seen],
        [right.value for _, right in seen],
        yerr=[[right.value - right.low for _, right in seen], [right.high - right.value for _, right in seen]],
        fmt=marker,
        color=colour,
        markersize=5 if marker == "o" else 4,
        markerfacecolor=colour if marker == "o" else "none",
        elinewidth=0.9,
        label=name,
    )


def predicted_against_actual(review: RegressionReview, theme: Theme) -> bytes:
    """Every point of a regression, and the line on which it would be right."""
    figure = _figure(theme, _WIDTH_IN * 0.9)
    axes = figure.subplots()
    _dress(axes, theme)
    points = np.array(review.points)
    ends = [float(points.min()), float(points.max())]
    axes.plot(ends, ends, ":", color=theme.ink, linewidth=1)
    axes.plot(points[:, 0], points[:, 1], "o", color=theme.first, markersize=3, alpha=0.5, markeredgewidth=0)
    unit = f" ({review.unit})" if review.unit else ""
    axes.set_xlabel(f"actual{unit}", parse_math=False)
    axes.set_ylabel(f"predicted{unit}", parse_math=False)
    return _png(figure)


def residuals(review: RegressionReview, theme: Theme) -> bytes:
    """How often which error occurs."""
    figure = _figure(theme, _HEIGHT_IN * 0.8)
    axes = figure.subplots()
    _dress(axes, theme)
    points = np.array(review.points)
    axes.hist(points[:, 1] - points[:, 0], bins=min(40, max(5, len(points) // 5)), color=theme.first)
    axes.axvline(0, color=theme.ink, linestyle=":", linewidth=1)
    axes.set_xlabel("predicted less actual" + (f" ({review.unit})" if review.unit else ""), parse_math=False)
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return _png(figure)


def _figure(theme: Theme, height_in: float = _HEIGHT_IN, width_in: float = _WIDTH_IN) -> Figure:
    return Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor=theme.paper, layout="constrained")


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.tick_params(color=theme.faint, labelcolor=theme.ink, labelsize=8, which="both")
    axes.xaxis.label.set(color=theme.ink, fontsize=9)
    axes.yaxis.label.set(color=theme.ink, fontsize=9)
    axes.grid(color=theme.faint, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink)


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that the font lacks is boxes in the plot; the tables beside it spell it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
