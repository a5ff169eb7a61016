"""The FastAPI application that BentoML mounts: every route that is not an inference method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from models.errors import ImageError, RefusedError, UnreachableError
from service.api.datasets import datasets_router
from service.api.feedback import feedback_router
from service.api.holdout import holdout_router
from service.api.interpretation import interpretation_router
from service.api.jobs import jobs_router
from service.api.models import models_router
from service.api.operations import operations_router
from service.api.promotion import promotion_router
from service.api.v2 import v2_router
from service.errors import Problem, ServiceError, problem_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from service.engine import EngineRef


def build_app(engine: EngineRef) -> FastAPI:
    """Put the routes together. Nothing of the engine is used until a route is called."""
    app = FastAPI(
        title="candor",
        version="1",
        description="Image classification that says how far to trust it.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.include_router(v2_router(engine))
    app.include_router(models_router(engine))
    app.include_router(interpretation_router(engine))
    app.include_router(promotion_router(engine))
    app.include_router(holdout_router(engine))
    app.include_router(jobs_router(engine))
    app.include_router(datasets_router(engine))
    app.include_router(feedback_router(engine))
    app.include_router(operations_router(engine, app))
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (ServiceError, ImageError, UnreachableError, RefusedError):
        app.add_exception_handler(kind, _refused)
    return app


async def _invalid(_: Request, error: Exception) -> Response:
    findings = error.errors() if isinstance(error, RequestValidationError) else []
    detail = "; ".join(f"{'.'.join(map(str, finding['loc']))}: {finding['msg']}" for finding in findings)
    return Problem(400, "invalid_parameter", detail or str(error)).response()


async def _refused(_: Request, error: Exception) -> Response:
    return problem_of(error).response()
