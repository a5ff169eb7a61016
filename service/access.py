"""Which route needs which scope: the one table of what may be asked. Who asks is `admission`.

What is not in the table is not routed, so a route that somebody forgets to put here answers 404 and not everybody. A path
is matched as it is, percent-decoded by the HTTP server, which is how the router takes it: no case, dot segment or double
slash is made equal to another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

KeyScope = Literal["predict", "explain", "train", "promote", "admin", "metrics"]
Need = KeyScope | Literal["open"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
# What CANDOR_ALLOW_UNAUTHENTICATED=predict opens.
INFERENCE: frozenset[KeyScope] = frozenset({"predict", "explain"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_INFER: dict[str, Need] = {"POST": "predict"}
_READ_MODELS: dict[str, Need] = {"GET": "predict"}
_INTERPRET: dict[str, Need] = {"GET": "explain"}
_TRAIN_READ: dict[str, Need] = {"GET": "train"}
_TRAIN_POST: dict[str, Need] = {"POST": "train"}
_OPEN: dict[str, Need] = {"GET": "open"}

TABLE: dict[str, dict[str, Need]] = {
    "/": _OPEN,
    "/docs": _OPEN,
    "/openapi.json": _OPEN,
    "/schema.json": _OPEN,
    "/static_content/{file:path}": _OPEN,
    "/livez": _OPEN,
    "/readyz": _OPEN,
    "/healthz": _OPEN,
    "/metrics": {"GET": "metrics"},
    "/classify": _INFER,
    "/v2": _READ_MODELS,
    "/v2/health/live": _OPEN,
    "/v2/health/ready": _OPEN,
    "/v2/models/{name}": _READ_MODELS,
    "/v2/models/{name}/versions/{version}": _READ_MODELS,
    "/v2/models/{name}/ready": _READ_MODELS,
    "/v2/models/{name}/versions/{version}/ready": _READ_MODELS,
    "/v2/models/{name}/infer": _INFER,
    "/v2/models/{name}/versions/{version}/infer": _INFER,
    "/v2/repository/index": _INFER,
    "/models": _READ_MODELS,
    "/models/{name}": _READ_MODELS,
    "/models/{name}/versions/{version}/gate": _READ_MODELS,
    "/explain-confidence": {"POST": "explain"},
    "/models/{name}/interpretation": _INTERPRET,
    "/models/{name}/interpretation/confusion-matrix": _INTERPRET,
    "/models/{name}/interpretation/most-confused": _INTERPRET,
    "/models/{name}/interpretation/reliability": _INTERPRET,
    "/models/{name}/interpretation/review": _INTERPRET,
    "/models/{name}/interpretation/thumbnails/{image_id}": _INTERPRET,
    "/models/{name}/versions/{version}/report": _INTERPRET,
    "/retrain": _TRAIN_POST,
    "/jobs": _TRAIN_READ,
    "/jobs/{job_id}": _TRAIN_READ,
    "/jobs/{job_id}/events": _TRAIN_READ,
    "/jobs/{job_id}/log": _TRAIN_READ,
    "/jobs/{job_id}/cancel": _TRAIN_POST,
    "/datasets": _TRAIN_READ,
    "/datasets/{name}": {"GET": "train", "PUT": "train", "DELETE": "train"},
    "/feedback": _TRAIN_POST,
    "/feedback/{image_id}": {"DELETE": "train"},
    "/review-queue": _TRAIN_READ,
    "/review-queue/{image_id}/image": _TRAIN_READ,
    "/models/{name}/promote": {"POST": "promote"},
    "/models/{name}/rollback": {"POST": "promote"},
    "/models/{name}/holdout": {"PUT": "admin"},
}


@dataclass(frozen=True)
class Access:
    """A route that was asked for.

    Attributes:
        template: As in the table; safe as a metric's label.
        parameters: What stands in the path for the template's names, in order.
        method: As it was sent.
        need: The scope, or `open`; None where the route has no such method.
        allowed: The methods that the route has.
    """

    template: str
    parameters: tuple[str, ...]
    method: str
    need: Need | None
    allowed: tuple[str, ...]

    @property
    def is_inference(self) -> bool:
        """Whether images are answered: what nobody waits for any more need not be."""
        return self.method == "POST" and self.need in INFERENCE

    @property
    def is_mutation(self) -> bool:
        """Whether it may change something; inference is POST and changes nothing."""
        return self.method not in _SAFE and self.need is not None and self.need not in INFERENCE


def _pattern(template: str) -> re.Pattern[str]:
    """A parameter is one segment, `{x:path}` the rest; without line breaks: the router's `$` stands before one."""
    parts = re.split(r"\{\w+(:path)?\}", template)
    # split answers text and kind in turns
    texts, kinds = parts[::2], parts[1::2]
    pattern = re.escape(texts[0])
    for kind, text in zip(kinds, texts[1:], strict=True):
        pattern += (r"([^\x00-\x1f\x7f]*)" if kind else r"([^/\x00-\x1f\x7f]+)") + re.escape(text)
    return re.compile(pattern)


_DOTS = re.compile(r"/\.{1,2}(?:/|\Z)")
_PATTERNS = tuple((_pattern(template), template) for template in TABLE if "{" in template)


def find(method: str, path: str) -> Access | None:
    """The route for a decoded path, with the slash at its end or without: the router redirects from the one to the other.

    None where there is no such route, and for dot segments, which lead elsewhere in a folder. `HEAD` needs what `GET` needs.
    """
    if _DOTS.search(path):
        return None
    plain = path.rstrip("/") or "/" if path.endswith("/") else path
    if plain in TABLE:
        return _access(method, plain, ())
    for pattern, template in _PATTERNS:
        match = pattern.fullmatch(plain)
        if match:
            return _access(method, template, match.groups())
    return None


def _access(method: str, template: str, parameters: tuple[str, ...]) -> Access:
    needs = TABLE[template]
    need = needs.get("GET" if method == "HEAD" else method)
    return Access(template, parameters, method, need, tuple(needs))
