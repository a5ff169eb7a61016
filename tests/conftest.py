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

import pytest

from training.cli import WAITING

os.environ["BENTOML_HOME"] = tempfile.mkdtemp(prefix="candor-tests-bentoml-")
os.environ["BENTOML_DO_NOT_TRACK"] = "true"
# As the command line does, before torch is imported.
os.environ.setdefault(*WAITING)


# Before xdist's own, which reads the mark.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` a file stays in one process, and what `make run` makes is made once, in one of them."""
    quickstart = {item.path for item in items if isinstance(item, pytest.Function) and "quickstart_home" in item.fixturenames}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("quickstart" if item.path in quickstart else item.path.stem))
