"""Where state lives: `CANDOR_HOME` and `CANDOR_REGISTRY`, read once into one frozen value.

Shared by the command lines of `models`, `training` and `service`; the service adds its own settings on top.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import SettingsError, describe

PREFIX = "CANDOR_"


class HomeSettings(BaseSettings):
    """`home` holds registry, runs, datasets, jobs, feedback and cache; `registry` may be elsewhere, and shared."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path("var"), description="where state lives")
    registry: Path | None = Field(default=None, description="the registry's folder; default: registry under the home")

    @property
    def registry_root(self) -> Path:
        """The registry's folder."""
        return self.registry if self.registry is not None else self.home / "registry"

    @property
    def runs_root(self) -> Path:
        """Where training keeps what it is working on."""
        return self.home / "runs"

    @property
    def datasets_root(self) -> Path:
        """Where data sets are kept."""
        return self.home / "datasets"

    @property
    def cache_root(self) -> Path:
        """What can be made again: unpacked archives, arrays that do not fit in memory."""
        return self.home / "cache"


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def read_home_settings() -> HomeSettings:
    """Read `CANDOR_HOME` and `CANDOR_REGISTRY`.

    Raises:
        SettingsError: If one of them is malformed.
    """
    try:
        return HomeSettings()
    except ValidationError as err:
        raise SettingsError(describe(err, variable)) from err
