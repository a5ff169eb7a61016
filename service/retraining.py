"""A request to `/retrain`, understood: every mistake that can be known now is answered now, and not by a job that fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from models.errors import ContractError, DatasetError, RecipeError, StoreError, UnreachableError, describe
from models.errors import UnknownModelError as NoSuchModelError
from models.manifest import NAME_PATTERN
from models.merging import check
from models.recipe import Recipe
from models.registry import parse_reference
from models.trainer import PRETRAINED, PRODUCTION
from service.datasets import FEEDBACK, locate
from service.errors import (
    BadRequestError,
    IdempotencyKeyRequiredError,
    InvalidDatasetError,
    InvalidRecipeError,
    UnknownModelError,
    UnsupportedMediaTypeError,
)
from service.inputs import whole_body
from service.jobs.schema import JobSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starlette.requests import Request

    from models.dataset_store import DatasetStore
    from models.registry import Registry
    from service.feedback.desk import FeedbackDesk

_MAX_BYTES = 1 << 20
MAX_KEY_LENGTH = 200
HEADER = "idempotency-key"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class RetrainRequest(BaseModel):
    """What may be sent to `/retrain`."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(pattern=NAME_PATTERN, description="the name that the new version is to get")
    dataset: Annotated[list[str], BeforeValidator(_listed)] = Field(
        min_length=1,
        max_length=16,
        description="name, name@version, allowed folder, or feedback; or several of them, which are merged",
    )
    recipe: dict[str, Any] = Field(default_factory=dict, description="any keys of a recipe, as in docs/training.md")
    start_from: str = Field(default=PRETRAINED, description="pretrained; production, the model's version there; or name:version")
    promote: Literal["gate", "manual"] = Field(
        default="gate", description="gate: what passes the gate goes into production; manual: it waits as the candidate"
    )
    idempotency_key: str | None = Field(
        default=None, min_length=1, max_length=MAX_KEY_LENGTH, description="the same key and request again is the same job"
    )


@dataclass(frozen=True)
class RetrainCall:
    """A request that was read: what is asked for, and the key that makes asking twice harmless."""

    request: RetrainRequest
    idempotency_key: str


async def read_retrain(request: Request) -> RetrainCall:
    """Read a request to `/retrain`.

    Raises:
        ServiceError: UnsupportedMediaTypeError if it is not JSON, BodyTooLargeError over a mebibyte, BadRequestError if a
            field is unknown or malformed, IdempotencyKeyRequiredError if no key is there.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(f"content type {media_type!r:.80} is not read here; send application/json")
    data = await whole_body(request, _MAX_BYTES)
    try:
        value = from_json(data or b"{}")
        if not isinstance(value, dict):
            raise BadRequestError('the JSON body is not an object; expected {"model": ..., "dataset": ...}')
        # BentoML's client sends null for what was left out.
        asked = RetrainRequest.model_validate({key: entry for key, entry in value.items() if entry is not None})
    except ValidationError as err:
        raise BadRequestError(describe(err, str)) from err
    except ValueError as err:
        raise BadRequestError(f"the JSON body cannot be read: {err}") from err
    return RetrainCall(asked, _idempotency_key(request.headers.get(HEADER), asked.idempotency_key))


def _idempotency_key(header: str | None, field: str | None) -> str:
    if header and field and header != field:
        raise BadRequestError(f"the Idempotency-Key header is {header!r:.80}, and idempotency_key is {field!r:.80}; send one")
    key = header or field
    if not key:
        raise IdempotencyKeyRequiredError(
            "send an Idempotency-Key header (or the field idempotency_key): any text of your own, the same when you ask again"
        )
    if len(key) > MAX_KEY_LENGTH:
        raise BadRequestError(f"the idempotency key has {len(key)} characters; at most {MAX_KEY_LENGTH} are kept")
    return key


def understand(
    asked: RetrainRequest, registry: Registry, datasets: DatasetStore, roots: Sequence[Path], feedback: FeedbackDesk
) -> JobSpec:
    """Check all that can be known before a job is made. Reads names of files, and no images but those of feedback.

    Raises:
        InvalidRecipeError: With every mistake of the recipe.
        UnknownModelError: If `start_from` is not there.
        UnknownDatasetError: If a data set is not there.
        InvalidDatasetError: If nothing could be learnt from the data.
        NoSpaceError: If the disk has no room for the feedback.
    """
    recipe = _recipe(asked.recipe)
    start_from = _pinned_start(asked, registry)
    references = [reference for reference in dict.fromkeys(asked.dataset) if reference != FEEDBACK]
    paths = [locate(reference, datasets, roots) for reference in references]
    pinned = [_pinned(reference, datasets) for reference in references]
    if FEEDBACK in asked.dataset:
        gathered = feedback.gather(asked.model, datasets)
        if gathered is not None:
            paths.append(locate(gathered.card.reference, datasets, roots))
            pinned.append(gathered.card.reference)
        elif not references:
            raise InvalidDatasetError(
                f"nothing is labelled for {asked.model} so far; POST /feedback labels what GET /review-queue has"
            )
    recipe = _for_feedback(asked, recipe, pinned, datasets)
    try:
        # A pattern and the names that it is tried on are both the caller's, and together can take for ever: in a trainer,
        # which can be ended, and not here.
        if recipe.label_pattern is None:
            check(paths, recipe)
    except DatasetError as err:
        raise InvalidDatasetError(str(err)) from err
    return JobSpec(model=asked.model, dataset=tuple(pinned), recipe=recipe, start_from=start_from, promote=asked.promote)


def _recipe(keys: dict[str, Any]) -> Recipe:
    if "weights" in keys:
        raise InvalidRecipeError("recipe.weights is a path on the machine that trains; say start_from to begin at a version")
    try:
        return Recipe.from_mapping(keys)
    except RecipeError as err:
        raise InvalidRecipeError(str(err)) from err


def _for_feedback(asked: RetrainRequest, recipe: Recipe, pinned: Sequence[str], datasets: DatasetStore) -> Recipe:
    """The recipe with the task that labels were given for: of their table alone it would have to be guessed."""
    cards = [datasets.resolve(reference).card for reference in pinned if not reference.startswith("/")]
    for task in {card.task for card in cards if card.source == FEEDBACK}:
        if recipe.task is None:
            recipe = _recipe({**asked.recipe, "task": task})
        elif recipe.task != task:
            raise InvalidRecipeError(f"task is {recipe.task}, and the feedback was given for {task}; leave it out")
    return recipe


def _pinned(reference: str, datasets: DatasetStore) -> str:
    """With the version that the name means now: what is put later is not what was asked for."""
    try:
        card = datasets.resolve(reference).card
    except StoreError:
        # A folder, which has no versions.
        return reference
    return f"{card.name}@{card.version}"


def _pinned_start(asked: RetrainRequest, registry: Registry) -> str:
    """Where to start, with the version that is in production now."""
    if asked.start_from == PRETRAINED:
        return asked.start_from
    try:
        if asked.start_from != PRODUCTION and parse_reference(asked.start_from)[1] is None:
            raise BadRequestError(
                f"start_from is {asked.start_from!r:.80}; expected pretrained, production, or name:version with a number"
            )
        name, version = registry.resolve(asked.model if asked.start_from == PRODUCTION else asked.start_from)
    except NoSuchModelError as err:
        raise UnknownModelError(f"start_from: {err}") from err
    except UnreachableError:
        raise
    except ContractError as err:
        raise UnknownModelError(f"start_from: {asked.start_from} cannot be read") from err
    return f"{name}:{version}"
