"""What a failure is called: an exit code for a shell, and a code and a sentence for whoever started this process.

Knows libraries' errors by name, since torch may not have been imported when something fails.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.errors import ContractError, DatasetError, RecipeError, UnreachableError
from models.trainer import EXIT_DEFECT, EXIT_INPUT, EXIT_MEMORY, EXIT_SPACE, EXIT_UNREACHABLE
from training.errors import DivergedError, LicenceError, StartError, TrainingError, WeightsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

Code = Literal[
    "invalid_dataset",
    "invalid_recipe",
    "weights_unavailable",
    "out_of_memory",
    "no_space",
    "diverged",
    "registry_unreachable",
    "training_error",
    "internal",
]
_EXITS: dict[Code, int] = {
    "internal": EXIT_DEFECT,
    "out_of_memory": EXIT_MEMORY,
    "no_space": EXIT_SPACE,
    "registry_unreachable": EXIT_UNREACHABLE,
}
_KINDS: tuple[tuple[type[Exception], Code], ...] = (
    (DatasetError, "invalid_dataset"),
    (RecipeError, "invalid_recipe"),
    (LicenceError, "invalid_recipe"),
    (StartError, "invalid_recipe"),
    (WeightsUnavailableError, "weights_unavailable"),
    (DivergedError, "diverged"),
    (UnreachableError, "registry_unreachable"),
    (ContractError, "training_error"),
    (TrainingError, "training_error"),
    (OSError, "training_error"),
)
# What torch's allocators, ONNX Runtime and the CUDA libraries say; last the loader, where a library does not fit.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "alloc_failed",
    "failed to allocate memory",
    "failed to map segment",
)
# safetensors speaks Rust.
_NO_SPACE = ("os error 28", "os error 122")


@dataclass(frozen=True)
class Failure:
    """One failure: its code, what a person reads, and what the process exits with."""

    code: Code
    sentence: str

    @property
    def exit_code(self) -> int:
        """2, the user's to mend, unless it is one of the others."""
        return _EXITS.get(self.code, EXIT_INPUT)


def failure_of(error: Exception) -> Failure:
    """Name a failure. Memory and disk come first, however many errors were made of them on the way."""
    causes = list(_causes(error))
    if any(_is_out_of_memory(cause) for cause in causes):
        return Failure("out_of_memory", f"out of memory ({_first_line(error)}); use a smaller batch_size or image_size")
    if any(_is_out_of_space(cause) for cause in causes):
        return Failure("no_space", f"no space is left on the disk ({_first_line(error)}); free some, and repeat")
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return Failure(code, str(error))
    return Failure("internal", f"a defect: {type(error).__name__}: {_first_line(error)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _has(text, _OUT_OF_MEMORY)


def _is_out_of_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return _has(str(error).lower(), _NO_SPACE)


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
