"""Who may ask for what, decided by the head of a request alone: no byte of a body has been read.

on loopback, without keys    everything, for this machine's own pages and programs
with keys                    what the scopes of the key that is shown allow; without a key the open routes
beyond loopback, no keys     the open routes
ALLOW_UNAUTHENTICATED        opens inference and reading models to those who show no key, with keys or without
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from service.access import INFERENCE, SCOPES
from service.errors import (
    ForbiddenError,
    MethodNotAllowedError,
    MissingScopeError,
    NotAllowedError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    UnknownHostError,
)
from service.logs import key_id
from service.rates import Buckets
from service.settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import Scope

    from service.access import Access, KeyScope
    from service.keys import Key, Keyring
    from service.metrics import Metrics
    from service.settings import Settings

_ALL: frozenset[KeyScope] = frozenset(SCOPES)
_NOTHING: frozenset[KeyScope] = frozenset()
_BEARER = b"bearer "
Headers = dict[bytes, bytes]


class Admission:
    """See the module."""

    def __init__(self, settings: Settings, keyring: Keyring | None, metrics: Metrics) -> None:
        """Decide by these settings; without a keyring there are no keys."""
        self._settings = settings
        self._keyring = keyring
        self._metrics = metrics
        self._mutations = Buckets(settings.mutations_per_minute)
        # A proxy beside a service that others can reach asks from loopback too.
        self._is_bound_to_loopback = is_loopback(settings.host)

    def admit(self, scope: Scope, access: Access | None) -> None:
        """Let a request through, and set `logs.key_id`.

        Raises:
            ForbiddenError: If host or origin are another site's, or nothing but a key would do and there are none.
            UnauthenticatedError: If a key is needed and none, or an unknown one, is shown.
            MissingScopeError: If the key may not do this.
            NotFoundError: If there is no such route.
            MethodNotAllowedError: If the route has no such method.
            RateLimitedError: If the key changed too much lately.
        """
        headers: Headers = dict(scope["headers"])
        is_local = self._is_local(scope)
        self._check_site(headers, is_local)
        if access is not None and access.need == "open":
            return
        key = self._key(headers)
        granted = self._anonymous(is_local) if key is None else key.granted
        if not granted:
            raise self._refusal(access)
        if access is None:
            raise NotFoundError("there is no such route; /docs shows every one")
        if access.need is None:
            raise MethodNotAllowedError(f"{access.template} has {', '.join(access.allowed)}", allowed=access.allowed)
        if access.need not in granted:
            raise self._refusal(access, key)
        if key is not None and access.is_mutation:
            self._count(key)

    def _is_local(self, scope: Scope) -> bool:
        server = scope.get("server")
        return self._is_bound_to_loopback and server is not None and is_loopback(str(server[0]))

    def _check_site(self, headers: Headers, is_local: bool) -> None:
        """Refuse what a page of another site makes a browser ask of a service that only this machine should reach."""
        host, allowed = headers.get(b"host", b""), self._settings.allowed_hosts
        name = _host(b"//" + host)
        if is_local and not (is_loopback(name) or name in allowed):
            raise UnknownHostError(f"host {name!r:.80} is not this service; allow it with CANDOR_ALLOWED_HOSTS")
        if b"origin" in headers:
            origin = headers[b"origin"]
            if _netloc(origin) != host.decode("latin-1") and _host(origin) not in allowed:
                text = origin.decode("latin-1")
                raise ForbiddenError(f"origin {text!r:.80} may not ask; allow it with CANDOR_ALLOWED_HOSTS")

    def _key(self, headers: Headers) -> Key | None:
        """The key that is shown; None where there are no keys or none is shown."""
        token = _token(headers)
        if self._keyring is None or token is None:
            return None
        key = self._keyring.find(token)
        if key is None:
            self._metrics.auth_failures.labels("unknown_key").inc()
            raise UnauthenticatedError("the key is not known here, or was revoked; ask whoever runs this service for another")
        key_id.set(key.id)
        return key

    def _anonymous(self, is_local: bool) -> frozenset[KeyScope]:
        if self._keyring is None and is_local:
            return _ALL
        return _NOTHING if self._settings.allow_unauthenticated is None else INFERENCE

    def _refusal(self, access: Access | None, key: Key | None = None) -> Exception:
        """Why not, and what to do about it."""
        what = f"{access.method} {access.template} needs" if access is not None and access.need is not None else "this needs"
        scope = f"scope {access.need}" if access is not None and access.need is not None else "one"
        if key is not None:
            self._metrics.auth_failures.labels("missing_scope").inc()
            return MissingScopeError(f"{what} {scope}, and the key {key.id} has {', '.join(key.scopes)}")
        if self._keyring is not None:
            self._metrics.auth_failures.labels("no_key").inc()
            return UnauthenticatedError(f"{what} a key with {scope}; send it as Authorization: Bearer, or as X-API-Key")
        self._metrics.auth_failures.labels("not_allowed").inc()
        return NotAllowedError(f"{what} a key with {scope}, and this service has no keys; set CANDOR_KEYS")

    def _count(self, key: Key) -> None:
        wait_s = self._mutations.take(key.id)
        if wait_s:
            self._metrics.shed.labels(RateLimitedError.code).inc()
            most = self._settings.mutations_per_minute
            raise RateLimitedError(f"the key {key.id} may change {most} things a minute; try again", math.ceil(wait_s))


def _token(headers: Headers) -> bytes | None:
    """What is shown as a key. `X-API-Key` is ours alone; `Authorization` may also be for something in between."""
    if b"x-api-key" in headers:
        return headers[b"x-api-key"].strip()
    given = headers.get(b"authorization", b"")
    return given[len(_BEARER) :].strip() if given[: len(_BEARER)].lower() == _BEARER else None


@lru_cache(maxsize=256)
def _host(value: bytes) -> str:
    """The host name of an origin, or of `//host:port`; empty where there is none."""
    try:
        return urlsplit(value.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


def _netloc(value: bytes) -> str:
    """Host and port of an origin; empty where there is none."""
    try:
        return urlsplit(value.decode("latin-1")).netloc
    except ValueError:
        return ""
