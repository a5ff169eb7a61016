"""Data sets as the service keeps them: uploads to disk, what `/retrain` may name, and what may be deleted.

An upload is written to disk as it comes and never held in memory. It is unpacked and looked through by a process of its
own (`python -m models put-dataset`), one at a time: unpacking a hundred thousand files in a thread would take the
interpreter from those who answer, decoding strange images may end a process, and a process can be ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pydantic_core import from_json

import models
from models import errors as contract
from models.__main__ import EXIT_FULL, EXIT_REFUSED
from models.dataset_card import DatasetCard
from models.manifest import NAME_PATTERN
from models.staging import full_disk, sweep, work_folder
from service.errors import (
    BadRequestError,
    InUseError,
    InvalidDatasetError,
    NoSpaceError,
    NotAllowedError,
    QueueFullError,
    StalledError,
    UnknownDatasetError,
    UnsupportedMediaTypeError,
)
from service.inputs import bounded_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from starlette.requests import Request

    from models.dataset_store import DatasetStore, StoredDataset

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("candor.datasets")
# What curl, browsers and libraries call a zip; without a type it is taken for one too.
ZIP_TYPES = ("application/zip", "application/x-zip-compressed", "application/octet-stream", "")
# What a request to /retrain calls what people labelled; what its data sets say of where they came from; their table.
FEEDBACK = "feedback"
FEEDBACK_TABLE = "feedback.csv"
MOST_UPLOADS = 4
STALL_S = 60.0
_WRITE_BYTES = 1 << 20
# The child imports the project by name, wherever the service was started.
_PROJECT = Path(models.__file__).resolve().parent.parent


class Datasets:
    """The store, and what the service adds to it."""

    def __init__(
        self, store: DatasetStore, max_bytes: int, in_use: Callable[[Path], str | None] | None = None, stall_s: float = STALL_S
    ) -> None:
        """Hold the parts.

        Args:
            store: Where data sets are kept.
            max_bytes: Of an upload.
            in_use: Given a data set's `path`, says who needs it, in words; None where nobody does.
            stall_s: How long an upload may be silent.
        """
        self.store = store
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._stall_s = stall_s
        self._uploads = 0
        self._turn = asyncio.Lock()
        # Writing waits for the disk, which must not keep anybody else's thread; and one at a time: what is written to a file
        # that is given up is written before it is closed.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="datasets")

    def start(self) -> None:
        """Begin to remove what an earlier process left unfinished."""
        self._thread.submit(self._sweep)

    def close(self) -> None:
        """Stop the thread; what is unfinished is removed by whoever waits for it."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def upload(self, name: str, request: Request) -> tuple[DatasetCard, bool]:
        """Keep a body as a data set, and answer its card and whether it is a new version.

        Raises:
            BadRequestError: If it cannot be called that.
            UnsupportedMediaTypeError: If the body says that it is no zip.
            QueueFullError: If there are too many uploads already.
            BodyTooLargeError: If it is over the limit.
            StalledError: If nothing more comes of it.
            DisconnectedError: If the caller hangs up before its end; nothing is left then.
            NoSpaceError: If the disk is full, or would be.
            InvalidDatasetError: If it is refused.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise BadRequestError(f"{name!r:.80} cannot name a data set; use up to 63 small letters, digits, '-' and '_'")
        if name == FEEDBACK:
            raise BadRequestError(f"{FEEDBACK} is what was labelled through /feedback; call the data set something else")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in ZIP_TYPES:
            raise UnsupportedMediaTypeError(f"content type {media_type!r:.80} is not read here; send application/zip, as it is")
        if self._uploads >= MOST_UPLOADS:
            raise QueueFullError(f"{self._uploads} data sets are being uploaded, and at most {MOST_UPLOADS} may; try again")
        self._uploads += 1
        try:
            async with self._work_folder() as folder:
                await self._receive(request, folder / "upload.zip")
                async with self._turn:
                    return await self._put(folder / "upload.zip", name)
        finally:
            self._uploads -= 1

    def get(self, name: str, version: str | None) -> StoredDataset:
        """One version, or what was put last.

        Raises:
            UnknownDatasetError: If there is none.
        """
        with _told():
            return self.store.get(name, version)

    def delete(self, name: str, version: str | None) -> list[str]:
        """Delete one version, or all of a name, and answer which.

        Raises:
            UnknownDatasetError: If there is none.
            InUseError: If a job needs one of them.
        """
        with _told():
            return self.store.delete(name, version, self._in_use)

    def _sweep(self) -> None:
        try:
            count = sweep(self.store.root)
        except OSError as err:
            logger.warning("%s cannot be looked through for unfinished uploads: %s", self.store.root, err)
            return
        if count:
            logger.info("removed %d unfinished uploads of an earlier process", count)

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *args, **kwargs))

    @contextlib.asynccontextmanager
    async def _work_folder(self) -> AsyncIterator[Path]:
        stack = contextlib.ExitStack()
        entering = asyncio.ensure_future(self._run(stack.enter_context, work_folder(self.store.root.absolute())))
        try:
            with _told(), full_disk():
                folder = await asyncio.shield(entering)
            yield folder
        finally:
            # Whoever gives up while it is being made has it removed when it is made.
            await asyncio.wait([entering])
            await self._run(stack.close)

    async def _receive(self, request: Request, path: Path) -> None:
        """Write the body to a file as it comes, in pieces that are worth a visit to another thread."""
        declared = request.headers.get("content-length", "")
        free = shutil.disk_usage(path.parent).free
        if declared.isdecimal() and free < int(declared) <= self._max_bytes:
            raise NoSpaceError(f"the upload is {declared} bytes, and the disk has {free} free; make room, or split it")
        chunks = bounded_body(request, self._max_bytes)
        waiting = bytearray()
        with _told(), full_disk():
            file = await self._run(path.open, "wb")
            try:
                while (chunk := await self._next(chunks)) is not None:
                    waiting += chunk
                    if len(waiting) >= _WRITE_BYTES:
                        await self._run(file.write, waiting)
                        waiting = bytearray()
                await self._run(file.write, waiting)
                await self._run(file.flush)
                await self._run(os.fsync, file.fileno())
            finally:
                await self._run(file.close)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self._stall_s):
                return await anext(chunks, None)
        except TimeoutError as err:
            raise StalledError(
                f"nothing came for {self._stall_s:g} seconds, and the upload is not complete; send it again"
            ) from err

    async def _put(self, zip_path: Path, name: str) -> tuple[DatasetCard, bool]:
        code, stdout, stderr = await self._look_through(zip_path, name)
        said = stderr.strip().rpartition("\n")[2]
        if code == EXIT_REFUSED:
            raise InvalidDatasetError(said)
        if code == EXIT_FULL:
            raise NoSpaceError(said)
        if code != 0:
            raise RuntimeError(f"put-dataset ended with {code}: {stderr}")
        answer = from_json(stdout)
        return DatasetCard.model_validate(answer["card"]), bool(answer["is_new"])

    async def _look_through(self, zip_path: Path, name: str) -> tuple[int, bytes, str]:
        """Run the process that keeps a data set: its exit code, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "models", "put-dataset", str(zip_path), "--name", name),
            *("--into", str(self.store.root.absolute()), "--origin", "upload", "--background"),
            cwd=_PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            stdout, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
            code = await process.wait()
            if code < 0:
                # What was killed does not tidy up.
                await self._run(self._sweep)
        return code, stdout, stderr.decode(errors="replace")


def locate(reference: str, store: DatasetStore, roots: Sequence[Path]) -> Path:
    """The folder, or table, that a request means: a data set that is kept, or one below a folder that the operator allowed.

    Args:
        reference: `name`, `name@version`, or a path from / on.
        store: Where data sets are kept.
        roots: `CANDOR_DATASET_ROOTS`.

    Raises:
        UnknownDatasetError: If there is none.
        NotAllowedError: If it is a path that is not below one of the roots, links followed.
    """
    with _told():
        if not reference.startswith("/"):
            stored = store.resolve(reference)
            # Labels that people gave are in a table of ours, which is then what is trained on.
            return stored.path / FEEDBACK_TABLE if stored.card.source == FEEDBACK else stored.path
        if "\0" in reference:
            raise UnknownDatasetError(f"{reference!r:.80} is not a path")
        path = Path(reference).resolve()
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            raise NotAllowedError(
                f"{reference!r:.200} is not below a folder of CANDOR_DATASET_ROOTS; upload it, or add one there"
            )
        if not path.is_dir():
            raise UnknownDatasetError(f"there is no folder {reference!r:.200}")
        return path


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what the store refuses as an answer."""
    try:
        yield
    except contract.UnknownDatasetError as err:
        raise UnknownDatasetError(str(err)) from err
    except contract.DatasetInUseError as err:
        raise InUseError(str(err)) from err
    except contract.NoSpaceError as err:
        raise NoSpaceError(str(err)) from err
