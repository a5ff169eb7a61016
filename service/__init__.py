"""HTTP in, calibrated predictions out. Knows `models`, never torch and never `training`."""

import os

# ONNX Runtime has telemetry that begins when it is imported, by whomever, unless this is set by then.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
