"""Local tags: one number a network, never one for two."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pileus.host.switch import SwitchError, tags
from pileus.host.switch.tags import LocalTags


def test_a_tag_just_freed_rests_until_the_others_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "LAST", 3)
    local = LocalTags()
    given = []
    for network in "abcdef":
        given.append(local.hold(network))
        local.release(network)
    assert given == [1, 2, 3, 1, 2, 3]


def test_when_all_are_taken_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "LAST", 2)
    local = LocalTags()
    local.hold("a")
    local.add_port("b", 2, "port")
    with pytest.raises(SwitchError, match="no local tag is left"):
        local.hold("c")
    assert local.hold("a") == 1


def test_ports_that_leave_together_leave_their_network_unused() -> None:
    local = LocalTags()
    for port in ("one", "two"):
        local.add_port("network", 7, port)
    with local.leaving(["one"]):
        assert local.unused(["network"]) == []
        with local.leaving(["two"]):
            assert local.unused(["network", "unknown"]) == [("network", 7)]
            local.hold("network")
            assert local.unused(["network"]) == []
            local.release("network")
        assert local.unused(["network"]) == []


class Tags(RuleBasedStateMachine):
    """Any order of requests and rows: a network keeps its tag while it is needed, and no two have the same."""

    networks = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.local = LocalTags()
        self.known: dict[str, int] = {}
        self.requests: Counter[str] = Counter()
        self.ports: dict[str, set[str]] = {}

    @rule(network=networks)
    def hold(self, network: str) -> None:
        tag = self.local.hold(network)
        assert self.known.setdefault(network, tag) == tag
        self.requests[network] += 1

    @rule(network=networks, port=st.sampled_from("xyz"))
    def row_comes(self, network: str, port: str) -> None:
        if network in self.known:
            self.local.add_port(network, self.known[network], port)
            self.ports.setdefault(network, set()).add(port)

    @rule(network=networks)
    def release(self, network: str) -> None:
        if self.requests[network]:
            self.local.release(network)
            self.requests[network] -= 1
            self.forget(network)

    @rule(network=networks, port=st.sampled_from("xyz"))
    def row_goes(self, network: str, port: str) -> None:
        if port in self.ports.get(network, set()):
            self.local.remove_port(network, port)
            self.ports[network].discard(port)
            self.forget(network)

    def forget(self, network: str) -> None:
        if not self.requests[network] and not self.ports.get(network):
            del self.known[network]

    @invariant()
    def every_network_has_its_own(self) -> None:
        assert len(set(self.known.values())) == len(self.known) == len(self.local)


test_tags_in_any_order = Tags.TestCase
