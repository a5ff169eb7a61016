"""What `python -m training` promises to whoever starts it as a process: where a fit may start, and what exit codes mean."""

from __future__ import annotations

PRETRAINED, PRODUCTION = "pretrained", "production"
# 69, 70, 74 and 75 are those of sysexits: unavailable, a defect, an error of input or output, and come again.
EXIT_INPUT, EXIT_DEFECT, EXIT_MEMORY, EXIT_SPACE, EXIT_CHECKPOINTED, EXIT_INTERRUPTED = 2, 70, 71, 74, 75, 130
EXIT_UNREACHABLE = 69
# The code of a failure that may be none at another moment: the registry's object store did not answer.
UNREACHABLE = "registry_unreachable"
