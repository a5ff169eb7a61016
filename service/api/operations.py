"""`GET /metrics`, `/docs`, `/openapi.json`, and `/`, which leads to the docs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from service.api.answer import bytes_of
from service.api.openapi import complete
from service.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from service.engine import EngineRef

# BentoML carries Swagger UI; its own page at / would load a third party's script as well.
_ASSETS = "/static_content"


def operations_router(engine: EngineRef, app: FastAPI) -> APIRouter:
    """The routes; `app` is what the document describes."""
    router = APIRouter(tags=["operations"])

    @router.get("/metrics", summary="Prometheus metrics", **bytes_of("text/plain"))
    def metrics() -> Response:
        return Response(engine.get().metrics.render(), media_type=CONTENT_TYPE)

    @cache
    def document() -> dict[str, Any]:
        return complete(app)

    @router.get("/openapi.json", include_in_schema=False)
    def openapi() -> JSONResponse:
        return JSONResponse(document())

    @router.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="candor",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon-light-32x32.png",
        )

    @router.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    return router
