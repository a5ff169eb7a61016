"""A registry in a folder, and the same in an object store."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from models.open_registry import open_registry
from tests.support.buckets import Bucket, s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.registry import Registry


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3() as bucket:
        yield bucket


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a registry may be that does not exist yet: a folder, unless a test is `@either`."""
    if getattr(request, "param", "folder") == "folder":
        return tmp_path / "registry"
    return f"s3://{request.getfixturevalue('bucket').name}/{uuid.uuid4().hex}/registry"


@pytest.fixture
def registry(place: Path | str, tmp_path: Path) -> Registry:
    return open_registry(place, tmp_path / "cache")
