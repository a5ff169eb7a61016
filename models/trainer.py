"""What `python -m training` promises to whoever starts it as a process: where a fit may start, and what exit codes mean."""

from __future__ import annotations

PRETRAINED, PRODUCTION = "pretrained", "production"
# 70, 74 and 75 are those of sysexits: a defect, an error of input or output, and come again.
EXIT_INPUT, EXIT_DEFECT, EXIT_MEMORY, EXIT_SPACE, EXIT_CHECKPOINTED, EXIT_INTERRUPTED = 2, 70, 71, 74, 75, 130
