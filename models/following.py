"""Looking at a registry's aliases again and again, at little cost. Knows no files, and nothing of who asks.

Epochs are consecutive, so whoever knows one need only ask whether the next has come: of an object store that is a read of one
object that is seldom there, for each name, which costs a twelfth of a listing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from models.errors import ContractError, UnreachableError

if TYPE_CHECKING:
    from models.aliases import Aliases
    from models.object_registry import ObjectRegistry
    from models.registry import Registry

# How often an object store is asked for all that there is, and not only for what comes next.
ALL_S = 10.0


class Follower(Protocol):
    """One who looks, every few moments, and in one thread at a time."""

    interval_s: float

    def names(self) -> list[str]:
        """The names that may have a version in production.

        Raises:
            UnreachableError: If nobody can tell now.
        """

    def aliases(self, name: str) -> Aliases:
        """What the aliases of one of them point to.

        Raises:
            UnreachableError: As above.
            RegistryError: If they cannot be read.
        """

    def kept(self) -> dict[str, int]:
        """While the registry cannot be reached: for each name the version that there is a copy of, production first."""


class FolderFollower:
    """Reads the folder each time, and tells a folder that is gone from one that is empty."""

    interval_s = 0.5

    def __init__(self, registry: Registry) -> None:
        """Look at nothing yet."""
        self._registry = registry
        self._has_names = False

    def names(self) -> list[str]:
        """See `Follower`."""
        if self._has_names and not self._registry.root.is_dir():
            raise UnreachableError(f"the registry {self._registry.root} is gone")
        names = self._registry.names()
        self._has_names = self._has_names or bool(names)
        return names

    def aliases(self, name: str) -> Aliases:
        """See `Follower`."""
        return self._registry.aliases(name)

    def kept(self) -> dict[str, int]:
        """None: a folder has no copy."""
        return {}


class StoreFollower:
    """Asks for each name's next epoch; and every ten seconds for all, to find new names and what was put back from a backup."""

    interval_s = 2.0

    def __init__(self, registry: ObjectRegistry, mirrored: Registry) -> None:
        """Ask nothing yet; `mirrored` answers while the store cannot be reached."""
        self._registry = registry
        self._mirrored = mirrored
        self._names: list[str] = []
        self._known: dict[str, Aliases] = {}
        self._all_at = 0.0

    def names(self) -> list[str]:
        """See `Follower`. A store that had names and has none was emptied: of what is deleted something stays."""
        if time.monotonic() >= self._all_at:
            names = self._registry.folders()
            if self._names and not names:
                raise UnreachableError(f"{self._registry.place} had models and is empty")
            self._names = names
            self._known.clear()
            self._all_at = time.monotonic() + ALL_S
        return self._names

    def aliases(self, name: str) -> Aliases:
        """See `Follower`."""
        known = self._known.get(name)
        if known is None:
            known = self._registry.current(name)
        while (newer := self._registry.read_epoch(name, known.epoch + 1)) is not None:
            known = newer
        self._known[name] = known
        return known

    def kept(self) -> dict[str, int]:
        """See `Follower`."""
        kept: dict[str, int] = {}
        for name in self._mirrored.names():
            try:
                aliases, present = self._mirrored.aliases(name), set(self._mirrored.versions(name))
            except ContractError:
                continue
            here = [version for version in (*aliases.previous, aliases.production) if version in present]
            if here:
                kept[name] = here[-1]
        return kept
