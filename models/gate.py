"""STUB until merge."""
from __future__ import annotations
from typing import Literal
from models.frozen import Frozen


class GateReport(Frozen):
    """STUB."""

    candidate: int
    production: int | None
    verdict: Literal["promote", "reject"]
    reasons: tuple[str, ...] = ()
