"""Where state lives: `CANDOR_HOME` and `CANDOR_REGISTRY`, read once into one frozen value.

Shared by the command lines of `models`, `training` and `service`; the service adds its own settings on top.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import SettingsError, describe
from models.object_store import URL

PREFIX = "CANDOR_"


def read_place(value: str) -> Path | str:
    """A folder, or the URL of an object store, as somebody wrote it.

    Raises:
        ValueError: If it is a URL of another kind.
    """
    if "://" not in value:
        return Path(value)
    if URL.fullmatch(value) is None:
        raise ValueError("is a URL of no object store; expected a folder, or s3://bucket/prefix, gs:// or az://")
    return value.rstrip("/")


Place = Annotated[Path | str, BeforeValidator(lambda value: read_place(value) if isinstance(value, str) else value)]


class HomeSettings(BaseSettings):
    """`home` holds registry, runs, datasets, jobs, feedback and cache; `registry` may be elsewhere, and shared."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path("var"), description="where state lives")
    registry: Place | None = Field(
        default=None,
        description="the registry: a folder, or a URL of an object store (`s3://bucket/prefix`, `gs://`, `az://`); "
        "default: registry under the home",
    )

    @property
    def registry_place(self) -> Path | str:
        """The registry's folder, or its URL."""
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
