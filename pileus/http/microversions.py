"""Microversions: which version a request asks for, and the headers that say which it got.

Source: the OpenStack API-SIG's microversion specification. A service keeps its own table of what each version changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pileus.errors import BadRequest, NotAcceptable

Version = tuple[int, int]

_FORM = re.compile(r"^([1-9]\d{0,3})\.(0|[1-9]\d{0,3})$")


@dataclass(frozen=True)
class Microversions:
    """`service` as in the header (`compute`, `placement`); `legacy` an older header of the service's own."""

    service: str
    first: Version
    last: Version
    legacy: str = ""

    def asked(self, headers: Mapping[str, str]) -> Version:
        """The version of this request. Raises NotAcceptable outside of what we speak, BadRequest for what is no version."""
        text = self._find(headers)
        if text is None:
            return self.first
        if text == "latest":
            return self.last
        match = _FORM.match(text)
        if match is None:
            raise BadRequest(f"API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum.")
        version = (int(match[1]), int(match[2]))
        if not self.first <= version <= self.last:
            raise NotAcceptable(
                f"Version {text} is not supported by the API. Minimum is {show(self.first)} and maximum is {show(self.last)}."
            )
        return version

    def headers(self, version: Version) -> dict[str, str]:
        vary = "OpenStack-API-Version"
        found = {"OpenStack-API-Version": f"{self.service} {show(version)}"}
        if self.legacy:
            found[self.legacy] = show(version)
            vary = f"{vary}, {self.legacy}"
        return found | {"Vary": vary}

    def _find(self, headers: Mapping[str, str]) -> str | None:
        for part in headers.get("openstack-api-version", "").split(","):
            name, _, text = part.strip().partition(" ")
            if name.lower() == self.service and text.strip():
                return text.strip()
        return (headers.get(self.legacy.lower()) or None) if self.legacy else None


def show(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
