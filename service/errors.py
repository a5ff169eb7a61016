"""Every answer that is not a success, in one table: exception, status, stable code.

    ServiceError
    ├── BadRequestError              400  empty_body, invalid_parameter, model_required, idempotency_key_required
    ├── UnauthenticatedError         401  unauthenticated
    ├── ForbiddenError               403  foreign_origin, unknown_host, not_allowed, missing_scope
    ├── UnknownModelError            404  unknown_model
    ├── UnknownJobError              404  unknown_job
    ├── ConflictError                409  conflict
    ├── NothingToRollBackError       409  nothing_to_roll_back
    ├── PreconditionFailedError      412  precondition_failed
    ├── TooLateError                 409  too_late
    ├── MethodNotAllowedError        405  method_not_allowed
    ├── UnknownDatasetError          404  unknown_dataset
    ├── UnknownImageError            404  unknown_image
    ├── NotFoundError                404  not_found
    ├── StalledError                 408  upload_stalled
    ├── InUseError                   409  in_use
    ├── BodyTooLargeError            413  body_too_large
    ├── UnsupportedMediaTypeError    415  unsupported_media_type
    ├── DisconnectedError            499  disconnected (nobody reads it)
    ├── InvalidRecipeError           422  invalid_recipe
    ├── InvalidDatasetError          422  invalid_dataset
    ├── IdempotencyKeyReusedError    422  idempotency_key_reused
    ├── QueueFullError               429  queue_full
    ├── RateLimitedError             429  rate_limited
    ├── NotReadyError                503  not_ready
    │   └── DeviceLostError          503  not_ready
    ├── OutOfMemoryError             503  out_of_memory
    ├── NoSupervisorError            503  no_supervisor
    ├── JobsUnreadableError          503  jobs_unreadable
    ├── NotAuditedError              503  not_audited
    ├── RegistryUnreachableError     503  registry_unreachable
    ├── RegistryReadOnlyError        503  registry_read_only
    ├── DeadlineExceededError        504  deadline_exceeded
    ├── NoSpaceError                 507  no_space
    └── ModelLoadError               (never answered) a version may not serve

The codes are contract; the sentences are not. Errors of `models` about images are the caller's and get theirs here too.
A body says nothing about the inside of the service.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

from pydantic_core import to_json
from starlette.responses import Response

from models import errors as contract

PROBLEM_TYPE = "application/problem+json"
# Whether a request of the Open Inference Protocol is answered: its clients look for `error`. The guard sets it.
is_open_inference: ContextVar[bool] = ContextVar("is_open_inference", default=False)


class ServiceError(Exception):
    """Base of what the service answers on purpose. `retry_after_s` becomes the `Retry-After` header, beside `headers`."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retry_after_s: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


class BadRequestError(ServiceError):
    """A parameter is malformed, unknown, or missing."""

    status = 400
    code = "invalid_parameter"


class EmptyBodyError(BadRequestError):
    """There is nothing to classify."""

    code = "empty_body"


class ModelRequiredError(BadRequestError):
    """Several models are served, none is the default, and none was named."""

    code = "model_required"


class IdempotencyKeyRequiredError(BadRequestError):
    """What makes asking twice harmless is missing."""

    code = "idempotency_key_required"


class UnauthenticatedError(ServiceError):
    """A key is needed, and none that is known here was shown."""

    status = 401
    code = "unauthenticated"
    headers = (("www-authenticate", 'Bearer realm="candor"'),)


class ForbiddenError(ServiceError):
    """A page of another site asks through somebody's browser."""

    status = 403
    code = "foreign_origin"


class UnknownHostError(ForbiddenError):
    """The `Host` header names a machine that this is not (DNS rebinding)."""

    code = "unknown_host"


class NotAllowedError(ForbiddenError):
    """The service can be reached from other machines, has no keys, and was not told that this is to be open."""

    code = "not_allowed"


class MissingScopeError(ForbiddenError):
    """The key that was shown may do other things."""

    code = "missing_scope"


class UnknownModelError(ServiceError):
    """No such model is served."""

    status = 404
    code = "unknown_model"


class UnknownJobError(ServiceError):
    """There is no such job, or it is forgotten by now."""

    status = 404
    code = "unknown_job"


class UnknownDatasetError(ServiceError):
    """No such data set is kept."""

    status = 404
    code = "unknown_dataset"


class UnknownImageError(ServiceError):
    """No such image is kept, or not any more."""

    status = 404
    code = "unknown_image"


class NotFoundError(ServiceError):
    """The model is known, and has no such thing."""

    status = 404
    code = "not_found"


class ConflictError(ServiceError):
    """Somebody else moved the alias at the same moment."""

    status = 409
    code = "conflict"


class NothingToRollBackError(ServiceError):
    """There was no production version before this one."""

    status = 409
    code = "nothing_to_roll_back"


class PreconditionFailedError(ServiceError):
    """The alias is no longer where the caller saw it (`If-Match`)."""

    status = 412
    code = "precondition_failed"


class TooLateError(ServiceError):
    """What was to be cancelled has ended, or can no longer be undone."""

    status = 409
    code = "too_late"


class MethodNotAllowedError(ServiceError):
    """The route is known, and has no such method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: tuple[str, ...] = ()) -> None:
        """Say which methods it has, in `Allow`."""
        super().__init__(message)
        self.headers = (("allow", ", ".join(allowed)),)


class StalledError(ServiceError):
    """Nothing more came of a body, or too little of it, and its end had not come either."""

    status = 408
    code = "upload_stalled"
    # What still comes would be taken for the next request.
    headers = (("connection", "close"),)


class InUseError(ServiceError):
    """A job needs what should be deleted."""

    status = 409
    code = "in_use"


class BodyTooLargeError(ServiceError):
    """The body is over the limit; it was not read whole."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaTypeError(ServiceError):
    """The content type is none that the route reads."""

    status = 415
    code = "unsupported_media_type"


class InvalidDatasetError(ServiceError):
    """What was uploaded is refused, or nothing could be trained on it."""

    status = 422
    code = "invalid_dataset"


class DisconnectedError(ServiceError):
    """The caller hung up; nobody reads this answer. The status is nginx's, for the metrics."""

    status = 499
    code = "disconnected"


class InvalidRecipeError(ServiceError):
    """A key of the recipe is unknown, contradictory or out of range."""

    status = 422
    code = "invalid_recipe"


class IdempotencyKeyReusedError(ServiceError):
    """The key was used before, for another request."""

    status = 422
    code = "idempotency_key_reused"


class QueueFullError(ServiceError):
    """More waits than the service can do in time."""

    status = 429
    code = "queue_full"
    retry_after_s = 1


class RateLimitedError(ServiceError):
    """The key changed more in the last minute than any key may."""

    status = 429
    code = "rate_limited"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        """Say when to try again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReadyError(ServiceError):
    """The model is known and not loaded yet, or could not be loaded."""

    status = 503
    code = "not_ready"
    retry_after_s = 2


class DeviceLostError(NotReadyError):
    """What computes is broken for as long as this process lives: nothing that it answers can be believed."""

    def __init__(self, reason: str = "") -> None:
        """Keep the reason for the log; callers learn nothing of the inside."""
        super().__init__("the device failed, and the service starts again; try again")
        self.reason = reason


class OutOfMemoryError(ServiceError):
    """The device has no room for this batch now; what runs beside it goes on."""

    status = 503
    code = "out_of_memory"
    retry_after_s = 1


class NoSupervisorError(ServiceError):
    """Nobody runs jobs here: another server than `python -m service`, or its supervisor is being started again."""

    status = 503
    code = "no_supervisor"
    retry_after_s = 2


class JobsUnreadableError(ServiceError):
    """The database of jobs is broken, locked, or its disk is full."""

    status = 503
    code = "jobs_unreadable"
    retry_after_s = 5


class NotAuditedError(ServiceError):
    """What changes something is on the audit log or does not happen, and the log cannot be written."""

    status = 503
    code = "not_audited"
    retry_after_s = 30


class RegistryUnreachableError(ServiceError):
    """The registry's object store does not answer, and there is no copy of what was asked for; nothing can be changed."""

    status = 503
    code = "registry_unreachable"
    retry_after_s = 5


class RegistryReadOnlyError(ServiceError):
    """The service's own credentials do not allow it to write into the registry's object store."""

    status = 503
    code = "registry_read_only"
    retry_after_s = 60


class JobsBrokenError(JobsUnreadableError):
    """It is no database, or a damaged one: no time heals it."""


class DeadlineExceededError(ServiceError):
    """The answer would have come too late."""

    status = 504
    code = "deadline_exceeded"
    retry_after_s = 1


class NoSpaceError(ServiceError):
    """The disk is full; nothing was kept of what did not fit."""

    status = 507
    code = "no_space"


class ModelLoadError(Exception):
    """A version may not serve: altered, another provider than asked for, or its golden outputs are not met."""


@dataclass(frozen=True)
class Problem:
    """An RFC 9457 problem: what `application/problem+json` holds."""

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> dict[str, object]:
        """The members of the JSON object."""
        title = phrase(self.status)
        members = {"type": "about:blank", "title": title, "status": self.status, "code": self.code, "detail": self.detail}
        return members | ({"error": self.detail} if is_open_inference.get() else {})

    def response(self) -> Response:
        """The HTTP answer."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return Response(to_json(self.body()), self.status, headers, PROBLEM_TYPE)


_IMAGE_ERRORS: dict[type[contract.ImageError], tuple[int, str]] = {
    contract.EmptyImageError: (400, "empty_body"),
    contract.UnsupportedFormatError: (422, "unreadable_image"),
    contract.UnreadableImageError: (422, "unreadable_image"),
    contract.ImageTooLargeError: (413, "image_too_large"),
}

# What Starlette, FastAPI and BentoML answer by themselves becomes a problem with one of these codes.
CODE_OF_STATUS = {
    400: "invalid_parameter",
    401: "unauthenticated",
    403: "foreign_origin",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_parameter",
    429: "queue_full",
    503: "not_ready",
    504: "deadline_exceeded",
}


def problem_of(error: BaseException) -> Problem:
    """Say an exception as a problem. What nobody expected is a 500 that reveals nothing."""
    if isinstance(error, contract.UnreachableError):
        error = RegistryUnreachableError("the registry cannot be reached now; look at what is there, and try again")
    if isinstance(error, contract.RefusedError):
        error = RegistryReadOnlyError("this service may not write into its registry; its operator can change that")
    if isinstance(error, ServiceError):
        return Problem(error.status, error.code, str(error), error.retry_after_s, error.headers)
    if isinstance(error, contract.ImageError):
        status, code = _IMAGE_ERRORS[type(error)]
        return Problem(status, code, str(error))
    return Problem(500, "internal", "the service failed; the request id finds the reason in its log")


def phrase(status: int) -> str:
    """What HTTP calls a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_of_status(status: int) -> Problem:
    """The problem for a bare status."""
    code = CODE_OF_STATUS.get(status, "internal" if status >= 500 else "invalid_request")
    return Problem(status, code, phrase(status).lower(), 2 if status in {429, 503, 504} else None)
