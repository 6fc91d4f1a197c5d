"""A client of any OpenStack cloud's APIs: a token of Keystone v3, the catalogue's endpoints, and clear words when it is refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from pileus.errors import StartupError
from pileus.lab.clouds import Access

LIMIT = 120.0
"""Seconds for one request, its queueing in the cloud included."""
CONNECTIONS = 200
"""Requests under way at once."""


class Refused(StartupError):
    """An API said no, or said nothing. `status` 0: nobody answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One login. Use as a context manager, which logs in. Raises Refused and StartupError."""

    def __init__(self, access: Access, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.access = access
        self.urls: dict[str, str] = {}
        self.project = ""
        self._token = ""
        self._logging_in = asyncio.Lock()
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        timeout = httpx.Timeout(LIMIT, pool=None)
        try:
            self._http = httpx.AsyncClient(timeout=timeout, limits=limits, verify=_trust(access.verify), transport=transport)
        except (OSError, ssl.SSLError) as error:
            raise StartupError(f"cloud {access.name}: the certificates {access.verify} cannot be read: {error}") from None

    async def __aenter__(self) -> Api:
        try:
            await self._log_in("")
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    def has(self, service: str) -> bool:
        return service in self.urls

    async def get(self, service: str, path: str, **params: str) -> Any:
        return _json(await self.request("GET", service, path, params=params))

    async def post(self, service: str, path: str, body: Any) -> Any:
        return _json(await self.request("POST", service, path, json=body))

    async def pages(self, service: str, path: str, key: str, **params: str) -> AsyncIterator[Any]:
        """The items of a list, page after page as the answers link them."""
        seen: set[str] = set()
        while True:
            told = await self.get(service, path, **params)
            if not isinstance(told, dict) or not isinstance(told.get(key), list):
                raise Refused(0, f"{self.urls[service]}{path} does not answer with {key}")
            for item in told[key]:
                yield item
            link = _next(told, key)
            if link is None or link in seen or not told[key]:
                return
            seen.add(link)
            params = dict(parse_qsl(urlsplit(link).query))

    async def request(
        self, method: str, service: str, path: str, *, json: Any = None, params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request; a token that is not good any more is renewed once."""
        url = self.urls.get(service)
        if url is None:
            known = ", ".join(sorted(self.urls)) or "nothing"
            region = f" of region {self.access.region}" if self.access.region else ""
            raise StartupError(
                f"cloud {self.access.name}: its catalogue{region} has no {self.access.interface} {service} endpoint, but {known}"
            )
        token = self._token
        answer = await self._send(method, url + path, json=json, params=params, headers={"X-Auth-Token": token})
        if answer.status_code == 401:
            await self._log_in(token)
            answer = await self._send(method, url + path, json=json, params=params, headers={"X-Auth-Token": self._token})
        if answer.is_error:
            raise Refused(answer.status_code, words(answer))
        return answer

    async def _log_in(self, old: str) -> None:
        """A new token, unless somebody else has fetched one instead of `old`."""
        async with self._logging_in:
            if self._token != old:
                return
            answer = await self._send("POST", f"{self.access.auth_url}/auth/tokens", json={"auth": auth_body(self.access)})
            if answer.is_error:
                who = self.access.auth.get("username") or self.access.auth.get("user_id") or "the credential"
                raise Refused(answer.status_code, f"cloud {self.access.name}: Keystone does not log {who} in: {words(answer)}")
            try:
                told = answer.json()["token"]
                self._token = answer.headers["X-Subject-Token"]
                self.project = told.get("project", {}).get("id", "")
                self.urls = endpoints(self.access, told.get("catalog", []), self.project)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise Refused(0, f"cloud {self.access.name}: {self.access.auth_url} does not answer as Keystone v3 does") from None

    async def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return await self._http.request(method, url, **more)
        except httpx.TimeoutException:
            raise Refused(0, f"no answer within {LIMIT:g} s to {method} {urlsplit(url).path}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Refused(0, f"{_place(url)} cannot be reached: {error or type(error).__name__}") from None


def auth_body(access: Access) -> dict[str, Any]:
    """What Keystone v3 is asked for a token with."""
    told = access.auth
    identity: dict[str, Any] = {"methods": [access.method]}
    if access.method == "token":
        identity["token"] = {"id": told["token"]}
    elif access.method == "application_credential":
        credential: dict[str, Any] = {"secret": told["application_credential_secret"]}
        if "application_credential_id" in told:
            credential["id"] = told["application_credential_id"]
        else:
            credential |= {"name": told.get("application_credential_name", ""), "user": _named(told, "user")}
        return {"identity": identity | {"application_credential": credential}}
    else:
        identity["password"] = {"user": {**_named(told, "user"), "password": told["password"]}}
    scope: dict[str, Any] = {}
    if "project_id" in told or "project_name" in told:
        scope = {"project": _named(told, "project")}
    elif "domain_id" in told or "domain_name" in told:
        scope = {"domain": {"id": told["domain_id"]} if "domain_id" in told else {"name": told["domain_name"]}}
    return {"identity": identity, **({"scope": scope} if scope else {})}


def endpoints(access: Access, catalogue: list[Any], project: str) -> dict[str, str]:
    """Service type → URL, of this access's interface and region; the first where there are several."""
    found = dict(access.overrides)
    for service in catalogue:
        for endpoint in service.get("endpoints", []):
            here = not access.region or access.region in (endpoint.get("region_id"), endpoint.get("region"))
            if endpoint.get("interface") == access.interface and here:
                url = str(endpoint["url"]).rstrip("/")
                for name in ("%(tenant_id)s", "%(project_id)s", "$(tenant_id)s", "$(project_id)s"):
                    url = url.replace(name, project)
                found.setdefault(service["type"], url)
    return {kind: _versioned(kind, url) for kind, url in found.items()}


def words(answer: httpx.Response) -> str:
    """The sentence in any service's fault body, after the status."""
    body: Any
    try:
        body = answer.json()
    except ValueError:
        body = None
    while isinstance(body, dict | list) and body:
        if isinstance(body, list):
            body = body[0]
        elif isinstance(said := body.get("message") or body.get("detail"), str):
            return f"{said} (HTTP {answer.status_code})"
        else:
            body = next(iter(body.values()))
    return f"{answer.request.method} {answer.request.url.path}: HTTP {answer.status_code} {answer.reason_phrase}".rstrip()


def _json(answer: httpx.Response) -> Any:
    """Raises Refused for what is none: a proxy's page."""
    try:
        return answer.json()
    except ValueError:
        raise Refused(0, f"{answer.request.method} {answer.request.url.path}: the answer is no JSON") from None


def _named(told: Mapping[str, str], what: str) -> dict[str, Any]:
    """A user or project by id, or by name with its domain."""
    name = "username" if what == "user" else f"{what}_name"
    if f"{what}_id" in told:
        return {"id": told[f"{what}_id"]}
    if f"{what}_domain_id" in told:
        domain = {"id": told[f"{what}_domain_id"]}
    elif f"{what}_domain_name" in told:
        domain = {"name": told[f"{what}_domain_name"]}
    else:
        domain = {"id": told.get("default_domain", "default")}
    return {"name": told.get(name, ""), "domain": domain}


def _versioned(kind: str, url: str) -> str:
    """Network and image endpoints stand in catalogues with and without their version."""
    suffix = {"network": "/v2.0", "image": "/v2"}.get(kind, "")
    return url if not suffix or url.rsplit("/", 1)[-1].startswith("v2") else url + suffix


def _next(told: Mapping[str, Any], key: str) -> str | None:
    """Nova and Neutron link `<key>_links`, Glance `next`."""
    if isinstance(told.get("next"), str):
        return str(told["next"])
    return next((str(link["href"]) for link in told.get(f"{key}_links", []) if link.get("rel") == "next"), None)


def _trust(verify: bool | str) -> bool | ssl.SSLContext:
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
