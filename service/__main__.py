"""Entry point of `python -m service`."""

import os
import sys

# Answers are judged in the threads that run the network (`service.serving` says more); read when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from service.cli import main

sys.exit(main())
