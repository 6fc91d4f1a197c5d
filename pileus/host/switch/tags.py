"""Local tags: which number each network of this host goes by inside the switch, and who still needs it. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pileus.host.switch import SwitchError

FIRST, LAST = 1, 4094


@dataclass
class _Network:
    tag: int
    ports: set[str] = field(default_factory=set)
    requests: int = 0


class LocalTags:
    """A network keeps its tag while a port's row names it, or a request to add one is under way."""

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}
        self._taken: set[int] = set()
        self._leaving: set[str] = set()
        self._next = FIRST

    def __len__(self) -> int:
        return len(self._networks)

    def hold(self, network_id: str) -> int:
        """The network's tag, its own until `release`. Raises SwitchError when all are taken."""
        network = self._networks.get(network_id)
        if network is None:
            network = self._networks[network_id] = _Network(self._free())
            self._taken.add(network.tag)
        network.requests += 1
        return network.tag

    def release(self, network_id: str) -> None:
        self._networks[network_id].requests -= 1
        self._drop_unused(network_id)

    def add_port(self, network_id: str, tag: int, port: str) -> None:
        """A port's row says that its network has this tag."""
        self._networks.setdefault(network_id, _Network(tag)).ports.add(port)
        self._taken.add(tag)

    def remove_port(self, network_id: str, port: str) -> None:
        self._networks[network_id].ports.discard(port)
        self._drop_unused(network_id)

    @contextlib.contextmanager
    def leaving(self, ports: Iterable[str]) -> Iterator[None]:
        """While these are being removed they do not count for `unused`, for others that are being removed, too."""
        own = set(ports) - self._leaving
        self._leaving |= own
        try:
            yield
        finally:
            self._leaving -= own

    def unused(self, networks: Iterable[str]) -> list[tuple[str, int]]:
        """Id and tag of those of these networks that have no port which stays, and none being added."""
        found = [(key, self._networks[key]) for key in networks if key in self._networks]
        return [(key, network.tag) for key, network in found if not network.requests and network.ports <= self._leaving]

    def _drop_unused(self, network_id: str) -> None:
        network = self._networks[network_id]
        if not network.ports and not network.requests:
            self._taken.discard(network.tag)
            del self._networks[network_id]

    def _free(self) -> int:
        """The next free one in turn, so that a number just freed rests a while."""
        if len(self._taken) > LAST - FIRST:
            raise SwitchError(f"this host has ports in {LAST} networks already: no local tag is left")
        while self._next in self._taken:
            self._next = self._next % LAST + 1
        tag, self._next = self._next, self._next % LAST + 1
        return tag
