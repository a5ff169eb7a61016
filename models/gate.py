"""STUB until merge."""
from models.gate_report import GateReport

__all__ = ["GateReport"]
