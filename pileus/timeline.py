"""The story of one action on a server: named steps, each with where it was done, what it waited for, and its limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StepKind:
    """`after`: the steps it follows (it starts with the last of them to be done). `limit`: the setting that ends the wait."""

    name: str
    after: tuple[str, ...]
    where: str
    meaning: str
    limit: str = ""


STEPS: dict[str, StepKind] = {
    step.name: step
    for step in (
        StepKind("accepted", (), "api", "the request was checked and written down"),
        StepKind("queued", ("accepted",), "worker", "waited for its turn", "compute.queue_limit"),
        StepKind("blocked", ("queued",), "worker", "waited until a host had room for it", "compute.blocked_limit"),
        StepKind("claimed", ("blocked", "queued"), "worker", "a host was chosen and its resources claimed", "compute.schedule_limit"),
        StepKind(
            "addressed",
            ("claimed", "blocked", "queued"),
            "network",
            "ports and addresses were given and bound to the host",
            "compute.network_limit",
        ),
        StepKind("sent", ("addressed", "claimed", "queued"), "worker", "what the host must know was gathered, and it was told"),
        StepKind("image", ("sent",), "host", "the image was made ready on the host", "compute.image_limit"),
        StepKind("plugged", ("sent",), "host", "TAP and switch port were made", "compute.plug_limit"),
        StepKind("paused", ("image",), "host", "the guest process was started, paused", "compute.start_limit"),
        StepKind("wired", ("plugged",), "agent", "the agent set tag, flows and DHCP entry", "compute.vif_plugging_timeout"),
        StepKind("signalled", ("wired",), "signal", "the host learned that the network is ready", "compute.vif_plugging_timeout"),
        StepKind("resumed", ("paused", "signalled", "sent"), "host", "the guest was set running"),
        StepKind("stopped", ("sent",), "host", "the guest process was ended", "compute.shutdown_timeout"),
        StepKind("removed", ("sent",), "host", "guest, disk, flows and ports of the host were removed", "compute.action_limit"),
        StepKind("released", ("removed", "queued"), "worker", "ports, addresses and claim were given back"),
        StepKind(
            "reported",
            ("resumed", "stopped", "released", "removed", "signalled", "wired", "paused", "sent", "addressed", "claimed", "queued"),
            "worker",
            "the outcome was written down",
        ),
    )
}


@dataclass(frozen=True)
class Span:
    """One step as it happened. Times in Unix seconds."""

    step: str
    start: float
    end: float
    where: str
    meaning: str
    after: str
    limit: str

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


def spans(stamps: Mapping[str, float], host: str = "") -> list[Span]:
    """The steps of a timeline in the order in which they ended.

    A step starts when the last of the steps it follows was done; `reported` when everything before it was.
    """
    found: list[Span] = []
    for name, end in stamps.items():
        kind = STEPS.get(name)
        if kind is None:
            continue
        before = [(stamps[a], a) for a in kind.after if a in stamps and stamps[a] <= end]
        start, after = max(before, default=(end, ""))
        where = f"host {host}" if kind.where in ("host", "agent", "signal") and host else kind.where
        found.append(Span(name, start, end, where, kind.meaning, after, kind.limit))
    order = list(STEPS)
    return sorted(found, key=lambda span: (span.end, order.index(span.step)))


def critical(timeline: list[Span]) -> list[Span]:
    """The chain of steps that decided how long it took, first to last."""
    by_name = {span.step: span for span in timeline}
    chain: list[Span] = []
    step = timeline[-1].step if timeline else ""
    while step in by_name and by_name[step] not in chain:
        chain.append(by_name[step])
        step = by_name[step].after
    return chain[::-1]
