"""For every test: BentoML keeps to a home of its own and reports nothing. Set before anything imports it.

pytest tests/unit tests/contract    seconds to a minute; what `make check` runs
pytest tests                        with the real service and the real command line; what `make test` runs
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
