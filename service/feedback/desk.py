"""All that can be done with feedback, in the service's words: label, review, delete, and make a data set of it.

Blocks on disks and networks, so it is called in threads.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from models import errors as contract
from models.registry import parse_reference
from models.staging import full_disk
from service.errors import InvalidDatasetError, ModelRequiredError, NoSpaceError, UnknownImageError, UnknownModelError
from service.feedback.dataset import gather, holding
from service.feedback.labels import is_new, read_label
from service.feedback.review import review
from service.feedback.schema import Labelling
from service.feedback.store import new_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.dataset_store import DatasetStore, StoredDataset
    from models.manifest import Manifest
    from models.registry import Registry
    from service.feedback.calls import FeedbackCall
    from service.feedback.review import Strategy, Waiting
    from service.feedback.room import Room
    from service.feedback.schema import ImageLabel, KeptImage
    from service.feedback.store import FeedbackStore
    from service.metrics import Metrics


@dataclass(frozen=True)
class Labelled:
    """What became of a label: as it is kept, and whether the model does not know it."""

    kept: ImageLabel
    is_new_label: bool


class FeedbackDesk:
    """See the module."""

    def __init__(self, store: FeedbackStore, room: Room, registry: Registry, default: str | None, metrics: Metrics) -> None:
        """Take the parts; `default` is the model that is meant where a request names none."""
        self._store = store
        self._room = room
        self._registry = registry
        self._default = default
        self._metrics = metrics

    def manifest(self, reference: str | None) -> Manifest:
        """The card of the version that a request means: of a name the one in production, else the newest.

        Raises:
            ModelRequiredError: If none is named and it is not plain which is meant.
            UnknownModelError: If there is none.
        """
        try:
            name, version = parse_reference(reference or self._default or self._only_name())
            found = self._known(name) if version is None else self._registry.manifest(name, version)
        except contract.UnknownModelError as err:
            raise UnknownModelError(str(err)) from err
        if found is None:
            raise UnknownModelError(
                f"there is no model {name!r:.80}; there are: {', '.join(self._registry.names()) or 'none yet'}"
            )
        return found

    def label(self, call: FeedbackCall, by: str | None) -> Labelled:
        """Label a kept image, or keep one with its label.

        Raises:
            BadRequestError: If the label is none, by the model's task.
            UnknownImageError: If the image is not kept, or not any more.
            UnknownModelError: If there is no such model.
            NoSpaceError: If the disk, or what may be kept, is full.
        """
        with _told():
            if call.image is not None:
                return self._label_own(call.image, call, by)
            image_id = call.image_id or self._store.find_request(call.request_id or "", call.index)
            model = None if image_id is None else self._store.find(image_id)
            if image_id is None or model is None:
                raise _unknown()
            return self._label(self.manifest(model), image_id, call, by)

    def review(self, model: str, strategy: Strategy, limit: int, cursor: str | None) -> tuple[Waiting, list[KeptImage]]:
        """A page of what is worth labelling, with what is known of each image.

        Raises:
            BadRequestError: If the cursor is none of this strategy's.
        """
        page = review(self._store, model, strategy, limit, cursor)
        images = []
        for entry in page.entries:
            # Deleted meanwhile, or still being written.
            with contextlib.suppress(FileNotFoundError):
                images.append(self._store.sidecar(model, entry))
        return page, images

    def image(self, image_id: str) -> bytes:
        """The bytes of an image, as they came.

        Raises:
            UnknownImageError: If it is not kept.
        """
        model = self._store.find(image_id)
        if model is None:
            raise _unknown()
        with _told():
            return self._store.image(model, image_id)

    def delete(self, image_id: str, datasets: DatasetStore) -> list[str]:
        """Delete an image and everything about it, and answer which data sets were made with it, and still have it.

        Raises:
            UnknownImageError: If it is not kept.
        """
        model = self._store.delete(image_id)
        if model is None:
            raise _unknown()
        self._metrics.feedback.labels("deleted").inc()
        return holding(image_id, model, datasets)

    def gather(self, model: str, datasets: DatasetStore) -> StoredDataset | None:
        """Freeze what is labelled for a model as a version of its data set; None where nothing is.

        Raises:
            InvalidDatasetError: If no image of it can be read.
            NoSpaceError: If the disk is full.
        """
        manifest = self._known(model)
        with _told():
            return None if manifest is None else gather(self._store, manifest, datasets)

    def _only_name(self) -> str:
        names = self._registry.names()
        if len(names) != 1:
            raise ModelRequiredError(f"name a model; there are: {', '.join(names) or 'none yet'}")
        return names[0]

    def _known(self, name: str) -> Manifest | None:
        if not self._registry.has_version(name):
            return None
        return self._registry.manifest(name, self._registry.aliases(name).production or self._registry.versions(name)[-1])

    def _label_own(self, data: bytes, call: FeedbackCall, by: str | None) -> Labelled:
        manifest = self.manifest(call.model)
        # Before anything is kept: a label that is none leaves no image behind.
        read_label(call.label, manifest.task)
        image = new_image(manifest.name, manifest.task, data)
        if not self._store.holds(image.model, image.id):
            has_room, evicted = self._room.make(len(data))
            self._metrics.feedback.labels("evicted").inc(evicted)
            if not has_room:
                raise NoSpaceError(
                    "as many images are kept as may be, and those that are labelled stay; delete some, or raise "
                    "CANDOR_KEEP_IMAGES_COUNT and CANDOR_KEEP_IMAGES_BYTES"
                )
            self._store.keep(image, data)
        return self._label(manifest, image.id, call, by)

    def _label(self, manifest: Manifest, image_id: str, call: FeedbackCall, by: str | None) -> Labelled:
        label = read_label(call.label, manifest.task)
        kept = self._store.label(manifest.name, image_id, manifest.task, Labelling(label=label, by=by, at=datetime.now(UTC)))
        self._metrics.feedback.labels("labelled").inc()
        return Labelled(kept, is_new(label, manifest))


def _unknown() -> UnknownImageError:
    return UnknownImageError("no such image is kept, or not any more; send the image itself with its label")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what store and disk refuse as an answer."""
    try:
        with full_disk():
            yield
    except FileNotFoundError as err:
        raise _unknown() from err
    except contract.NoSpaceError as err:
        raise NoSpaceError(str(err)) from err
    except contract.DatasetError as err:
        raise InvalidDatasetError(f"feedback: {err}") from err
