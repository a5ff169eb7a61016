"""A folder of images in, a calibrated and verified artifact out. Knows `models`, never `service`."""

import os

# ONNX Runtime has telemetry that begins when it is imported, by whomever, unless this is set by then.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
