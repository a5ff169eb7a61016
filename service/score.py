"""`python -m service score NAME FOLDER`: a folder of images to lines of JSON, by the parts that serve, without HTTP.

Images are answered a bounded way ahead of what is written, so that every core works and memory does not grow with the folder.
Takes no lock: it runs beside a service, and beside itself.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np
from pydantic_core import to_json

from models.errors import DatasetError, ImageError, SettingsError, UnreadableImageError
from models.layouts import SUFFIXES, find_images
from models.open_registry import open_registry
from models.preprocess import Limits, load_image
from service.api.answer import model_card
from service.calls import DEFAULT_TOP_K, MAX_TOP_K, integer
from service.cores import available_cores
from service.device import Device
from service.errors import (
    BadRequestError,
    BodyTooLargeError,
    DeviceLostError,
    ModelLoadError,
    OutOfMemoryError,
    Problem,
    ServiceError,
    problem_of,
)
from service.live import Plan, load
from service.logs import EXIT_UNAVAILABLE
from service.metrics import Metrics
from service.predictor import decide
from service.results import failure_of, result_of
from service.runtime.onnx import chosen_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future
    from pathlib import Path
    from typing import BinaryIO

    from models.preprocess import UInt8Array
    from service.live import Judged, LiveModel
    from service.settings import Settings

logger = logging.getLogger("candor.score")
_EXIT_FAILED = 1
_SHOW_S = 0.5
# Images that a thread takes at once: to judge them together takes little longer than to judge one.
_TOGETHER = 8
# So many times that, for each thread, may be done or under way: a large image holds up what is written, and no other thread.
_AHEAD = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Wish:
    """What is to be scored, and what is to be said of each image, as in a request to `/classify`."""

    model: str
    source: Path
    top_k: int
    is_raw: bool
    has_trust: bool


def read_wish(model: str, source: Path, top_k: str | None, *, is_raw: bool, has_trust: bool) -> Wish:
    """A wish as it is written on the command line.

    Raises:
        SettingsError: If `top_k` is no number of labels.
    """
    try:
        return Wish(model, source, integer("top_k", top_k, DEFAULT_TOP_K, 1, MAX_TOP_K), is_raw, has_trust)
    except BadRequestError as err:
        raise SettingsError(str(err)) from err


def score(settings: Settings, wish: Wish) -> int:
    """Write a line for each image to stdout, and return the exit code: 1 where something failed that is no image's fault.

    Raises:
        ContractError: If there is no such model, no such folder, or no image in it.
    """
    root, names = find(wish.source)
    try:
        scorer = Scorer(settings, wish)
    except (ModelLoadError, OutOfMemoryError, DeviceLostError) as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_UNAVAILABLE
    tally = Tally(len(names), sys.stderr, is_shown=sys.stderr.isatty() and not sys.stdout.isatty())
    try:
        _write(scorer.results(root, names), sys.stdout.buffer, tally)
    except BrokenPipeError:
        # Who read it has read enough. Python would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as err:
        sys.stderr.write(f"the results cannot be written ({err.strerror})\n")
        return os.EX_IOERR
    finally:
        scorer.close()
    sys.stderr.write(f"{tally.summary(scorer.model)}\n")
    return _EXIT_FAILED if tally.failed else 0


def find(source: Path) -> tuple[Path, list[str]]:
    """The folder and the images in it, as paths below it in the order of their letters; a file stands for itself.

    Raises:
        DatasetError: If there are none.
    """
    if not source.exists():
        raise DatasetError(f"{source} does not exist; expected an image, or a folder of images")
    if not source.is_dir():
        return source.parent, [source.name]
    files, skipped = find_images(source)
    if skipped:
        first = skipped[0]
        sys.stderr.write(f"{len(skipped)} files are left out, the first is {str(first.path)!r}: {first.reason}\n")
    if not files:
        raise DatasetError(f"{source} holds no images; expected {', '.join(sorted(SUFFIXES))} files, in it or in folders below")
    return source, sorted(path.relative_to(source).as_posix() for path in files)


class Scorer:
    """A version, and the threads that ask it: each reads, decodes and runs images by itself, and waits for no other."""

    def __init__(self, settings: Settings, wish: Wish) -> None:
        """Load the version, as the service does.

        Raises:
            UnknownModelError: If there is none.
            ModelLoadError: If it may not serve.
        """
        registry = open_registry(settings.registry_place, settings.cache_root)
        cores, provider = available_cores(), chosen_provider(settings.device)
        path = registry.path(*registry.resolve(wish.model))
        plan = Plan(provider, cores, settings.max_batch, settings.runtime, settings.precision)
        self._wish = wish
        self._max_bytes = settings.max_body_bytes
        self._limits = Limits(header_px=settings.max_image_pixels, decoded_px=settings.max_decoded_pixels)
        self._max_batch = plan.max_batch
        # Who waits for a GPU leaves its core to another.
        self._threads = cores if provider == "cpu" else cores + plan.lanes
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="score")
        self.model = load(path, self._pool, plan, Metrics(), Device())

    def results(self, root: Path, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The names below `root`, in order, with what is said of each."""
        parts = _parts(names, max(_TOGETHER, self._max_batch))
        for part, results in in_order(self._pool, lambda part: self._answer(root, part), parts, _AHEAD * self._threads):
            yield from zip(part, results, strict=True)

    def close(self) -> None:
        """Stop the threads; what they are at is finished."""
        self._pool.shutdown(cancel_futures=True)

    def _answer(self, root: Path, names: Sequence[str]) -> list[dict[str, Any]]:
        """What is said of images that are judged together; one of which nothing can be said has the reason in its place."""
        images: dict[str, UInt8Array] = {}
        results: dict[str, dict[str, Any]] = {}
        for name in names:
            try:
                images[name] = self._pixels(root / name)
            except Exception as err:  # noqa: BLE001 - whatever it is, the other images are answered
                results[name] = _failure(name, err)
        results |= self._run(images)
        return [results[name] for name in names]

    def _pixels(self, path: Path) -> UInt8Array:
        manifest = self.model.manifest
        size = manifest.input
        return load_image(_read(path, self._max_bytes), manifest.preprocessing, size.height, size.width, self._limits)

    def _run(self, images: Mapping[str, UInt8Array]) -> dict[str, dict[str, Any]]:
        """Run and judge images; where that fails, one by one, so that an error reaches only the one it belongs to."""
        if not images:
            return {}
        try:
            ran = [self.model.outputs(batch) for batch in _parts(list(images.values()), self._max_batch)]
            logits, embeddings = zip(*ran, strict=True)
            known = None if embeddings[0] is None else np.concatenate(embeddings)
            judged = self.model.judge_batch(np.concatenate(logits), known)
            return {name: self._result(one) for name, one in zip(images, judged, strict=True)}
        except Exception as err:  # noqa: BLE001 - as above
            if len(images) == 1:
                return {name: _failure(name, err) for name in images}
            return {name: self._run({name: image})[name] for name, image in images.items()}

    def _result(self, judged: Judged) -> dict[str, Any]:
        answer = decide(self.model, judged, self._wish.top_k, is_raw=self._wish.is_raw)
        return result_of(answer, has_trust=self._wish.has_trust)


class Tally:
    """How many images are done, and on a terminal a line that says so."""

    def __init__(self, total: int, terminal: TextIO, *, is_shown: bool) -> None:
        """Begin to count, and the time with it."""
        self._total = total
        self._terminal = terminal
        self._is_shown = is_shown
        self._started = self._shown = time.monotonic()
        self._done = self._unreadable = self.failed = 0

    def add(self, result: dict[str, Any]) -> None:
        """Count one image, whose result was written."""
        self._done += 1
        if "error" in result:
            is_ours = result["error"]["status"] >= 500
            self.failed += is_ours
            self._unreadable += not is_ours
        now = time.monotonic()
        if self._is_shown and (now - self._shown > _SHOW_S or self._done == self._total):
            self._shown = now
            progress = "" if self._done == self._total else f"{self._done} of {self._total} images, {self._rate():.0f} images/s"
            self._terminal.write(f"\r\x1b[K{progress}")
            self._terminal.flush()

    def summary(self, model: LiveModel) -> str:
        """One line about all of it."""
        card = model_card(model)
        failed = f", {self.failed} failed" if self.failed else ""
        counted = f"{self._done} images, {self._unreadable} unreadable{failed}, {self._rate():.0f} images/s"
        return f"{counted}, {model.manifest.reference} on {card['runtime']} {card['precision']}"

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._started, 1e-9)


def in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[tuple[Item, Result]]:
    """The results in the order of the items, with at most `ahead` of them begun and not yet handed on."""
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, pool.submit(work, item)))
        if len(begun) == ahead:
            first, result = begun.popleft()
            yield first, result.result()
    for first, result in begun:
        yield first, result.result()


def _write(results: Iterable[tuple[str, dict[str, Any]]], out: BinaryIO, tally: Tally) -> None:
    for name, result in results:
        # A name that is no text has come as it is from the command line.
        shown = name.encode(errors="backslashreplace").decode()
        # Whole, and at once, so that what was written before an end of any kind can be read.
        out.write(to_json({"image": shown, **result}) + b"\n")
        out.flush()
        tally.add(result)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _failure(name: str, error: Exception) -> dict[str, Any]:
    if isinstance(error, (ServiceError, ImageError)):
        return failure_of(problem_of(error))
    logger.error("%s failed", name, exc_info=error)
    return failure_of(Problem(500, "internal", "it could not be classified; stderr has the reason"))


def _read(path: Path, max_bytes: int) -> bytes:
    """A file's bytes, bounded as a body is.

    Raises:
        UnreadableImageError: If it cannot be read, or is no file.
        BodyTooLargeError: If it is larger than a body may be.
    """
    try:
        # What is no file, such as a pipe, would be waited for.
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableImageError("it is not a file")
        if about.st_size > max_bytes:
            raise BodyTooLargeError(f"the file is {about.st_size} bytes; at most {max_bytes} are accepted")
        return path.read_bytes()
    except OSError as err:
        raise UnreadableImageError(f"the file cannot be read: {err.strerror}") from err
