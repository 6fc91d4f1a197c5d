"""A small client of a cloud's public APIs, for the commands: logs in with the state folder's clouds.yaml, follows the catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from pileus.cli.statefolder import Login, is_held_while_running, login, running_pid
from pileus.errors import StartupError

COMPUTE_VERSION = "2.96"
LIMIT = 60.0


class ApiError(StartupError):
    """An API said no. `status` is its HTTP status; the text is its own sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One login. `urls` holds the catalogue: service type → URL (and `pileus`, which the catalogue does not name)."""

    def __init__(self, known: Login) -> None:
        self._http = httpx.Client(timeout=LIMIT, trust_env=False)
        self._base = known.auth_url.rstrip("/").removesuffix("/v3")
        self.urls = {"identity": self._base, "pileus": self._base.rsplit("/", 1)[0] + "/pileus"}
        self._token = ""
        try:
            self._log_in(known)
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_state(cls, state: Path) -> Client:
        """Raises StartupError: no cloud was ever made here, none runs, or it does not answer."""
        known = login(state)
        if is_held_while_running(state) and running_pid(state) is None:
            raise StartupError(f"no cloud runs in {state}; start it with `pileus up --state {state}`")
        return cls(known)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        service: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | Iterable[bytes] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request. Raises ApiError with the service's own words, and StartupError where nobody answers."""
        given = {"X-Auth-Token": self._token, **(headers or {})}
        if service == "compute":
            given["OpenStack-API-Version"] = f"compute {COMPUTE_VERSION}"
        url = self.urls.get(service)
        if url is None:
            raise StartupError(f"the cloud's catalogue names no {service} service")
        return self._send(method, url + path, json=json, content=content, params=params, headers=given)

    def get(self, service: str, path: str, **params: str) -> Any:
        return self.request("GET", service, path, params=params).json()

    def post(self, service: str, path: str, body: Any) -> Any:
        answer = self.request("POST", service, path, json=body)
        return answer.json() if answer.content else None

    def delete(self, service: str, path: str) -> None:
        """What is not there is as good as deleted."""
        try:
            self.request("DELETE", service, path)
        except ApiError as error:
            if error.status != 404:
                raise

    def answer_time(self, service: str) -> float:
        """Seconds that a service takes for its version document. Raises StartupError."""
        begun = time.perf_counter()
        host = httpx.URL(self.urls[service])
        self._send("GET", str(host.copy_with(path="/" + host.path.split("/")[1] + "/")))
        return time.perf_counter() - begun

    def _log_in(self, known: Login) -> None:
        user = {"name": known.username, "domain": {"id": "default"}, "password": known.password}
        scope = {"project": {"name": known.project_name, "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        answer = self._send("POST", f"{self._base}/v3/auth/tokens", json=body)
        self._token = answer.headers["X-Subject-Token"]
        for service in answer.json()["token"]["catalog"]:
            for endpoint in service["endpoints"]:
                if endpoint["interface"] == "public":
                    self.urls.setdefault(service["type"], endpoint["url"].rstrip("/"))

    def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, url, **more)
        except httpx.TimeoutException:
            raise StartupError(f"the cloud did not answer {method} {url} within {LIMIT:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StartupError(f"the cloud does not answer at {url}: {error}") from None
        if answer.is_error:
            raise ApiError(answer.status_code, _words(answer))
        return answer


def _words(answer: httpx.Response) -> str:
    """The sentence in any service's fault body."""
    try:
        body = answer.json()
    except ValueError:
        return f"{answer.request.method} {answer.request.url.path}: HTTP {answer.status_code}"
    while isinstance(body, dict | list) and body:
        if isinstance(body, list):
            body = body[0]
        elif isinstance(words := body.get("message") or body.get("detail"), str):
            return words
        else:
            body = next(iter(body.values()))
    return f"HTTP {answer.status_code}"
