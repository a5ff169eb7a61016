"""STUB until merge."""

from pathlib import Path

from models.dataset_store import DatasetStore
from models.errors import UnknownDatasetError as E
from service.errors import ServiceError


class UnknownDatasetError(ServiceError):
    status = 404
    code = "unknown_dataset"


def locate(reference: str, store: DatasetStore, roots: tuple[str, ...]) -> Path:
    try:
        return store.resolve(reference).path
    except E as err:
        raise UnknownDatasetError(str(err)) from err
