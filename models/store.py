"""The door to BentoML's model store: a version goes in, for a Bento to carry.

That store is not a registry: what is being written to it can be seen, and a version that was deleted resolves to another
whose name begins alike. So one entry of it is a whole registry, with one version that is in production; the store names it, and
nothing is looked up there but what a Bento pinned. The one module here that imports bentoml (docs/decisions/0013).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import bentoml

from models.registry import Registry

if TYPE_CHECKING:
    from bentoml import Bento

# What `bentofile.yaml` bakes in is the newest of this name.
ENTRY = "candor-registry"
_FOLDER = "registry"


def export(registry: Registry, name: str, version: int) -> str:
    """Put a version into the store, and return the tag of the entry.

    Raises:
        UnknownModelError: If there is no such version.
        ArtifactError: If it was altered.
    """
    with bentoml.models.create(ENTRY, labels={"name": name, "version": str(version)}) as entry:
        baked = Registry(Path(entry.path) / _FOLDER)
        registry.copy(name, version, baked)
        baked.promote(name, version)
    return str(entry.tag)


def baked_registry(bento: Bento | None) -> Path | None:
    """The registry that a Bento carries; None where it carries none, or this is no Bento."""
    carried = [] if bento is None else [model.tag for model in bento.info.all_models if model.tag.name == ENTRY]
    return Path(bentoml.models.get(carried[0]).path) / _FOLDER if carried else None
