"""For every test: BentoML keeps to a home of its own and reports nothing. Set before anything imports it.

pytest tests/unit tests/contract    minutes; what `make check` runs, on two processes
pytest tests                        with the real service and the real command line, one after the other; `make test` runs
                                    what measures no time on two processes
pytest -m "not torch"               what needs no torch
pytest -m gpu                       on a machine with an NVIDIA GPU
"""

from __future__ import annotations

import os
import tempfile

from training.cli import WAITING

os.environ["BENTOML_HOME"] = tempfile.mkdtemp(prefix="candor-tests-bentoml-")
os.environ["BENTOML_DO_NOT_TRACK"] = "true"
# As the command line does, before torch is imported.
os.environ.setdefault(*WAITING)
