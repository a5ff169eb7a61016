"""One door to a registry, wherever it is: in a folder, or in an object store, where it is named by a URL."""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.object_registry import ObjectRegistry
from models.object_store import ObjectStore
from models.registry import Registry


def open_registry(place: Path | str, cache: Path, *, is_patient: bool = False) -> Registry:
    """A registry; nothing of it is read or made yet.

    Args:
        place: A folder, or a URL such as `s3://bucket/prefix`.
        cache: Where things lie that can be read again: the mirror of an object store is made there.
        is_patient: As with `ObjectStore`.

    Raises:
        SettingsError: If the URL, or what the environment says of it, is no good.
    """
    if isinstance(place, Path):
        return Registry(place)
    store = ObjectStore(place, is_patient=is_patient)
    return ObjectRegistry(store, cache / "registry" / hashlib.sha256(store.url.encode()).hexdigest()[:16])
