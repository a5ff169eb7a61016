"""What can be watched without labels: how sure a version's answers are, how familiar its images, what was decided.

One for each loaded version, since a window that held answers of two versions would say nothing of either. Counters add up
over the versions of a name; the gauges are of the version that answers.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from models.confidence.case import DEFAULT_LEVEL
from models.confidence.explanation import SingleLabelExplanation
from models.confidence.familiarity import Verdict
from models.confidence.judge import Action

if TYPE_CHECKING:
    from models.confidence.explanation import Explanation
    from models.confidence.schema import Reference
    from service.metrics import Metrics

# The last so many answered images; of fewer than LEAST nothing is said.
WINDOW, LEAST = 1000, 100
# Every estimate without labels is too high under a shift, and a shift shows in how many images are not familiar: of images
# like the data it is one in twenty, and this is three times that.
MOST_STRANGE = 0.15


class _Answered(NamedTuple):
    p_max: float
    p_correct: float | None
    familiarity: Verdict | None


class Monitor:
    """Counts the answers of one version."""

    def __init__(self, name: str, reference: Reference | None, accuracy: float | None, metrics: Metrics) -> None:
        """Make the series of a name, so that they are 0 and not missing before the first answer.

        Args:
            name: Of the model.
            reference: What is usual for this version; None where that is not known.
            accuracy: What it was published with; None where that is not known, or with another task.
            metrics: Where the series are.
        """
        self._name = name
        self._metrics = metrics
        self._accuracy = math.nan if accuracy is None else accuracy
        self._reference = None if reference is None or not any(reference.p_max) else np.cumsum(reference.p_max)
        self._window: deque[_Answered] = deque(maxlen=WINDOW)
        # answers come on the event loop, and the gauges are read in another thread
        self._lock = threading.Lock()
        self._p_max = metrics.confidence.labels(name)
        self._p_correct = metrics.p_correct.labels(name)
        self._set_size = metrics.set_size.labels(name)
        self._familiarity = {verdict: metrics.familiarity.labels(name, verdict) for verdict in get_args(Verdict)}
        self._decisions = {action: metrics.decisions.labels(name, action) for action in get_args(Action)}

    def answered(self, p_max: float | None, p_correct: float | None, familiarity: Verdict | None, action: Action) -> None:
        """Count one image.

        Args:
            p_max: The calibrated probability of its label; None with another task.
            p_correct: As in `Trust`.
            familiarity: As in `Trust`.
            action: As in `Trust`.
        """
        self._decisions[action].inc()
        if familiarity is not None:
            self._familiarity[familiarity].inc()
        if p_correct is not None:
            self._p_correct.observe(p_correct)
        if p_max is not None:
            self._p_max.observe(p_max)
            with self._lock:
                self._window.append(_Answered(p_max, p_correct, familiarity))

    def explained(self, explanation: Explanation) -> None:
        """Count one image that was explained."""
        familiarity = explanation.familiarity.verdict if explanation.familiarity is not None else None
        action = explanation.decision.action
        if not isinstance(explanation, SingleLabelExplanation):
            self.answered(None, None, familiarity, action)
            return
        self.answered(explanation.prediction.probability, explanation.confidence.p_correct, familiarity, action)
        # Whoever asks for another level gets larger or smaller sets, and that says nothing of the images.
        if explanation.prediction_set is not None and explanation.prediction_set.confidence_level == DEFAULT_LEVEL:
            self._set_size.observe(explanation.prediction_set.size)

    def show(self) -> None:
        """Be the one that the name's gauges are read from, of what is answered from now on."""
        with self._lock:
            self._window.clear()
        self._metrics.estimated_accuracy.labels(self._name).set_function(self.estimated_accuracy)
        self._metrics.drift.labels(self._name).set_function(self.drift)
        self._metrics.published_accuracy.labels(self._name).set(self._accuracy)

    def hide(self) -> None:
        """Take the name's gauges away: nothing answers under it any more."""
        self._metrics.estimated_accuracy.remove(self._name)
        self._metrics.drift.remove(self._name)
        self._metrics.published_accuracy.remove(self._name)

    def estimated_accuracy(self) -> float:
        """The mean p_correct of the window; NaN for too few images, or too many that are not like the data.

        Where it is not known what is like the data, there is no telling, and it is NaN too. Images without a p_correct
        (like nothing the model was shown) are left out.
        """
        window = self._seen()
        known = [one.p_correct for one in window if one.p_correct is not None]
        if len(window) < LEAST or not known or any(one.familiarity is None for one in window):
            return math.nan
        strange = sum(one.familiarity != "familiar" for one in window)
        return math.nan if strange >= MOST_STRANGE * len(window) else float(np.mean(known))

    def drift(self) -> float:
        """How far the window's probabilities are from the usual ones: the largest distance of the two distributions, 0..1.

        The two-sample Kolmogorov-Smirnov statistic over the bins of the reference; NaN for too few images or no reference.
        """
        window = self._seen()
        if self._reference is None or len(window) < LEAST:
            return math.nan
        counts, _ = np.histogram([one.p_max for one in window], bins=len(self._reference), range=(0.0, 1.0))
        return float(np.abs(np.cumsum(counts) / len(window) - self._reference / self._reference[-1]).max())

    def _seen(self) -> list[_Answered]:
        with self._lock:
            return list(self._window)
