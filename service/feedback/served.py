"""An answered image on its way to be kept: from what was answered, whichever route it was, to the sidecar."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.confidence.explanation import RegressionExplanation, SingleLabelExplanation
from service.feedback.schema import KeptImage, KeptPrediction, image_id
from service.predictor import Estimate, Prediction

if TYPE_CHECKING:
    from datetime import datetime

    from models.confidence.explanation import Explanation
    from models.manifest import Manifest
    from service.predictor import Answer

_NO_LABEL: dict[str, Any] = {"label": None, "probability": None, "selected": None, "margin": None}


@dataclass(frozen=True)
class Served:
    """One image of a request, and what was answered. Made while somebody waits, so nothing is computed yet."""

    data: bytes
    request_id: str
    index: int
    manifest: Manifest
    answer: Answer | Explanation
    at: datetime

    def sidecar(self) -> KeptImage:
        """What is written down of it."""
        answer, sha256 = self.answer, hashlib.sha256(self.data).hexdigest()
        return KeptImage(
            id=image_id(self.manifest.name, sha256),
            sha256=sha256,
            model=self.manifest.name,
            version=self.manifest.version,
            task=self.manifest.task,
            kept=self.at,
            request_id=self.request_id,
            index=self.index,
            size_bytes=len(self.data),
            prediction=_of_answer(answer) if isinstance(answer, Prediction | Estimate) else _of_explanation(answer),
        )


def _of_answer(answer: Answer) -> KeptPrediction:
    trust = answer.trust
    judged: dict[str, Any] = {
        "p_correct": trust.p_correct,
        "familiarity": trust.familiarity,
        "p_familiar": trust.p_familiar,
        "action": trust.action,
    }
    if isinstance(answer, Estimate):
        return KeptPrediction(**_NO_LABEL, value=answer.value, **judged)
    return KeptPrediction(
        label=answer.labels[0][0],
        probability=answer.probability,
        selected=answer.selected,
        value=None,
        margin=answer.margin,
        **judged,
    )


def _of_explanation(said: Explanation) -> KeptPrediction:
    familiar = said.familiarity
    judged: dict[str, Any] = {
        "p_correct": said.confidence.p_correct if isinstance(said, SingleLabelExplanation) else None,
        "familiarity": None if familiar is None else familiar.verdict,
        "p_familiar": None if familiar is None else familiar.p_value,
        "action": said.decision.action,
    }
    if isinstance(said, RegressionExplanation):
        return KeptPrediction(**_NO_LABEL, value=said.value, **judged)
    if isinstance(said, SingleLabelExplanation):
        first, margin = said.prediction, said.confidence.margin
        return KeptPrediction(
            label=first.label, probability=first.probability, selected=None, value=None, margin=margin, **judged
        )
    top = said.predictions[0]
    # Of the labels that were named, which are the most probable ones.
    margin = min(abs(one.margin) for one in said.predictions)
    return KeptPrediction(
        label=top.label, probability=top.probability, selected=said.selected, value=None, margin=margin, **judged
    )
