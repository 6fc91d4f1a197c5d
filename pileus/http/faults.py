"""The body of a refusal, in each service's own shape. (Sources: the api-refs of Nova, Keystone, Glance, Neutron, Placement.)"""

from __future__ import annotations

import html
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec

from pileus.errors import PileusError

Rendered = tuple[int, bytes, str]
"""Status, body, content type."""

Shape = Callable[[PileusError, str, str], Rendered]
"""(error, request id, the request's Accept header) → what is sent."""

_NOVA_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}


def title(status: int) -> str:
    return HTTPStatus(status).phrase


def _json(status: int, body: Any) -> Rendered:
    return status, msgspec.json.encode(body), "application/json"


def compute(error: PileusError, request_id: str, accept: str) -> Rendered:
    name = _NOVA_NAMES.get(error.status, "computeFault")
    return _json(error.status, {name: {"code": error.status, "message": error.message}})


def identity(error: PileusError, request_id: str, accept: str) -> Rendered:
    return _json(error.status, {"error": {"code": error.status, "message": error.message, "title": title(error.status)}})


def network(error: PileusError, request_id: str, accept: str) -> Rendered:
    status = 409 if error.kind == "OverQuota" else error.status
    return _json(status, {"NeutronError": {"type": error.kind, "message": error.message, "detail": ""}})


def placement(error: PileusError, request_id: str, accept: str) -> Rendered:
    code = error.kind if error.kind.startswith("placement.") else "placement.undefined_code"
    item = {"status": error.status, "title": title(error.status), "detail": error.message, "code": code, "request_id": request_id}
    return _json(error.status, {"errors": [item]})


def image(error: PileusError, request_id: str, accept: str) -> Rendered:
    """As webob does it: JSON for who asks for it, else a small page."""
    name = title(error.status)
    if "json" in accept:
        return _json(error.status, {"message": error.message, "code": f"{error.status} {name}", "title": name})
    text = html.escape(error.message)
    head = f"<html>\n <head>\n  <title>{error.status} {name}</title>\n </head>\n"
    page = f"{head} <body>\n  <h1>{error.status} {name}</h1>\n  {text}\n </body>\n</html>"
    return error.status, page.encode(), "text/html; charset=UTF-8"
