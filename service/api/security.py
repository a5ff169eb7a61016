"""What the OpenAPI document says of keys: how one is shown, and which scope each route needs."""

from __future__ import annotations

from typing import Any

from service.access import INFERENCE, TABLE, Need

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer candor_…"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "X-API-Key: candor_…"},
}
# Statuses that only a route that needs a key answers, and that only one that changes something does.
_KEYED = (401,)
_CHANGING = (429, 503)


def needed(path: str, method: str) -> Need:
    """What a documented operation needs.

    Raises:
        KeyError: If `service.access` does not know the route, so that nobody could ask for it.
    """
    known = {template.replace(":path}", "}"): needs for template, needs in TABLE.items()}
    return known[path][method.upper()]


def statuses(need: Need, method: str) -> tuple[int, ...]:
    """The statuses that keys, rates and the audit log add to an operation."""
    if need == "open":
        return ()
    changes = method.upper() != "GET" and need not in INFERENCE
    return (*_KEYED, *_CHANGING) if changes else _KEYED


def secure(operation: dict[str, Any], need: Need) -> None:
    """Say what an operation needs, for programs and in words. Where the service has no keys, nothing is needed."""
    if need == "open":
        operation["security"] = []
        return
    operation["security"] = [{"bearer": [need]}, {"key": [need]}, {}]
    words = f"Where the service has keys: needs one with scope `{need}`" + ("." if need == "admin" else ", or `admin`.")
    operation["description"] = "\n\n".join(text for text in (operation.get("description"), words) if text)
