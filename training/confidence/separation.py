"""How well a number tells two kinds of images apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def auroc(above: npt.NDArray[np.floating], below: npt.NDArray[np.floating]) -> float:
    """The area under the ROC curve: how often one of `above` is larger than one of `below`; of equals, every other time.

    Args:
        above: Of the kind that ought to have larger numbers, `[N]`, N at least 1.
        below: Of the other kind, `[M]`, M at least 1.
    """
    ordered = np.sort(below)
    smaller, not_larger = np.searchsorted(ordered, above, side="left"), np.searchsorted(ordered, above, side="right")
    return float((smaller + not_larger).mean() / 2 / len(ordered))
