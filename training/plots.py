"""tmp."""

from __future__ import annotations


def plot_sweep(sweep: object) -> bytes:
    """Tmp."""
    return b""
