"""HTTP in, calibrated predictions out. Knows `models`, never torch and never `training`."""

__version__ = "0.1.0"
