"""Kept images and their labels, by model: `<model>/images/<id>`, its sidecar, its label; and which request held it.

    <model>/images/<id>                                     the bytes as they came
    <model>/kept/<id>.<ms>.<bytes>.<margin>.<p_familiar>.json   the sidecar; the name has what queue and bounds look at
    <model>/labels/<id>.json                                the label, where somebody gave one
    requests/<hash of request id and index>.<ms>.<id>       empty; a request's image is found by it

Names carry what is sorted by, so one listing answers for thousands of images, in a folder and in an object store, and any
number of processes may write: nothing is ever kept in memory.
"""

from __future__ import annotations

import hashlib
import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from models.manifest import NAME_PATTERN
from service.feedback.schema import ID_PATTERN, ImageLabel, KeptImage, Label, Labelling
from service.feedback.schema import image_id as compute_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from models.recipe import Task
    from service.feedback.files import Files

_REQUESTS = "requests"
_ID = re.compile(ID_PATTERN)
# In a sidecar's name, with its ending.
_PARTS = 6
UNKNOWN = "-"
_PER_UNIT = 1_000_000


class Entry(NamedTuple):
    """What a sidecar's name says, as it is written: thousands are looked at for the few that are shown.

    Attributes:
        id: Of the image.
        ms: When it was kept, in milliseconds since 1970.
        size: In bytes.
        margin: In millionths, with as many digits as any other, so that texts sort as numbers; `UNKNOWN` where there is none.
        p_familiar: The same.
        name: All of it.
    """

    id: str
    ms: str
    size: str
    margin: str
    p_familiar: str
    name: str

    @property
    def at_ms(self) -> int:
        """When it was kept."""
        return int(self.ms)

    @property
    def size_bytes(self) -> int:
        """How large the image is."""
        return int(self.size)


class Reference(NamedTuple):
    """That a request held an image."""

    request: str
    at_ms: int
    id: str
    name: str


class FeedbackStore:
    """See the module."""

    def __init__(self, files: Files) -> None:
        """Take the place; nothing is made yet."""
        self._files = files
        # A label and an eviction of the same image must not cross. Between processes they may, within a few milliseconds.
        self._lock = threading.Lock()

    def models(self) -> list[str]:
        """The names that something is kept for, in alphabetical order."""
        return sorted(name for name in self._files.names("") if name != _REQUESTS and re.fullmatch(NAME_PATTERN, name))

    def entries(self, model: str) -> list[Entry]:
        """Everything that is kept for a model, in no order."""
        split = ((name.split("."), name) for name in self._files.names(f"{model}/kept"))
        return [Entry._make((*parts[:5], name)) for parts, name in split if len(parts) == _PARTS]

    def labelled(self, model: str) -> set[str]:
        """The ids of the images that have a label."""
        return {name.removesuffix(".json") for name in self._files.names(f"{model}/labels")}

    def references(self) -> list[Reference]:
        """Which requests held which images."""
        split = ((name.split("."), name) for name in self._files.names(_REQUESTS))
        return [Reference(parts[0], int(parts[1]), parts[2], name) for parts, name in split if len(parts) == 3]

    def holds(self, model: str, image_id: str) -> bool:
        """Whether an image is kept."""
        return self._files.exists(f"{model}/images/{image_id}")

    def keep(self, image: KeptImage, data: bytes) -> bool:
        """Keep an image, and which request held it; false where it is kept already, and only the request is new."""
        is_new = not self.holds(image.model, image.id)
        if is_new:
            # The sidecar first: bytes that no listing knew would never be deleted.
            self._files.write(f"{image.model}/kept/{_name(image)}", image.model_dump_json().encode())
            self._files.write(f"{image.model}/images/{image.id}", data)
        if image.request_id is not None and image.index is not None:
            request = _request(image.request_id, image.index)
            self._files.write(f"{_REQUESTS}/{request}.{_ms(image.kept):013d}.{image.id}", b"")
        return is_new

    def find(self, image_id: str) -> str | None:
        """The model that an image is kept for."""
        if not _ID.fullmatch(image_id):
            return None
        return next((model for model in self.models() if self.holds(model, image_id)), None)

    def find_request(self, request_id: str, index: int) -> str | None:
        """The id of a request's image; where several requests had that id, of the newest."""
        request = _request(request_id, index)
        found = [one for one in self.references() if one.request == request]
        return max(found, key=lambda one: one.at_ms).id if found else None

    def image(self, model: str, image_id: str) -> bytes:
        """The bytes as they came.

        Raises:
            FileNotFoundError: If it is not kept.
        """
        return self._files.read(f"{model}/images/{image_id}")

    def sidecar(self, model: str, entry: Entry) -> KeptImage:
        """What is written down of an image.

        Raises:
            FileNotFoundError: If it is not kept any more.
        """
        return KeptImage.model_validate_json(self._files.read(f"{model}/kept/{entry.name}"))

    def label(self, model: str, image_id: str, task: Task, labelling: Labelling) -> ImageLabel:
        """Label an image, again if it was; what it was called before is remembered.

        Raises:
            FileNotFoundError: If it is not kept.
        """
        with self._lock:
            if not self.holds(model, image_id):
                raise FileNotFoundError(image_id)
            old = self.read_label(model, image_id)
            before = () if old is None else (*old.before, old.last)
            new = ImageLabel(id=image_id, model=model, task=task, last=labelling, before=before)
            self._files.write(_label_path(model, image_id), new.model_dump_json().encode(), is_synced=True)
            return new

    def read_label(self, model: str, image_id: str) -> ImageLabel | None:
        """The label of an image; None where it has none."""
        try:
            return ImageLabel.model_validate_json(self._files.read(_label_path(model, image_id)))
        except FileNotFoundError:
            return None

    def labels(self, model: str, task: Task) -> Iterator[tuple[str, Label]]:
        """Every id with its label, in order of id; those of another task, which the model once had, are left out."""
        for image_id in sorted(self.labelled(model)):
            label = self.read_label(model, image_id)
            if label is not None and label.task == task:
                yield image_id, label.last.label

    def delete(self, image_id: str) -> str | None:
        """Delete an image and everything about it, and answer whose it was; None where it is not kept."""
        model = self.find(image_id)
        if model is None:
            return None
        with self._lock:
            self._files.remove([_label_path(model, image_id)])
            self.drop_references(one for one in self.references() if one.id == image_id)
            self._files.remove(f"{model}/kept/{entry.name}" for entry in self.entries(model) if entry.id == image_id)
            # Last: until the bytes are gone the image is found, so a deletion that fails half-way can be repeated.
            self._files.remove([f"{model}/images/{image_id}"])
        return model

    def evict(self, model: str, entry: Entry) -> bool:
        """Delete an image unless it has a label by now, and answer whether it is gone. Requests still refer to it."""
        with self._lock:
            if self._files.exists(_label_path(model, entry.id)):
                return False
            # The sidecar last: what no listing knows would never be deleted.
            self._files.remove([f"{model}/images/{entry.id}", f"{model}/kept/{entry.name}"])
            return True

    def drop_references(self, references: Iterable[Reference]) -> None:
        """Forget which requests held an image."""
        self._files.remove(f"{_REQUESTS}/{reference.name}" for reference in references)

    def tidy(self) -> None:
        """Remove what a process left unfinished when it was killed."""
        self._files.tidy()


def new_image(model: str, task: Task, data: bytes) -> KeptImage:
    """The sidecar of an image that is sent with its label."""
    sha256 = hashlib.sha256(data).hexdigest()
    return KeptImage(
        id=compute_id(model, sha256),
        sha256=sha256,
        model=model,
        version=None,
        task=task,
        kept=datetime.now(UTC),
        request_id=None,
        index=None,
        size_bytes=len(data),
        prediction=None,
    )


def _label_path(model: str, image_id: str) -> str:
    return f"{model}/labels/{image_id}.json"


def _request(request_id: str, index: int) -> str:
    return hashlib.sha256(f"{request_id}\0{index}".encode(errors="surrogatepass")).hexdigest()[:32]


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _name(image: KeptImage) -> str:
    prediction = image.prediction
    numbers = (None, None) if prediction is None else (prediction.margin, prediction.p_familiar)
    odd = [UNKNOWN if number is None else f"{round(number * _PER_UNIT):07d}" for number in numbers]
    return ".".join([image.id, f"{_ms(image.kept):013d}", str(image.size_bytes), *odd, "json"])
