"""A storm as one page of the same form as an experiment's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from urllib.parse import urlsplit

from pileus.lab import charts, page, stability
from pileus.lab.markup import GAP, Markup, number, percent, rate, seconds, short, tag
from pileus.lab.page import Tile
from pileus.lab.storm import Made, Storm

COLUMNS = 40
MOST_SPECKS = 4000
"""Servers drawn as points; of more only every so many."""


def render(found: Storm) -> str:
    """The page."""
    return page.page(
        found.title,
        f"Pileus {found.version} · lab storm · {page.moment(found.started_at)}",
        finding(found),
        [page.tiles(_tiles(found)), _over_time(found), _distribution(found), _faults(found), _windows(found), _how(found)],
        f"Made by `pileus lab storm` of Pileus {found.version}. The page is whole: it loads nothing.",
    )


def finding(found: Storm) -> str:
    """What the storm found, in a sentence or two."""
    if not found.created:
        return "Nothing was measured: no server was asked for."
    end = " The storm was ended early." if found.interrupted else ""
    begin = f"Of {number(found.created)} servers {percent(found.active, found.created)} became ACTIVE"
    if not found.active:
        return f"{begin}: {found.faults[0].message}.{end}" if found.faults else f"{begin}.{end}"
    said = (
        f"{begin}, {rate(found.active_per_s)} in all: half of them within {seconds(found.p50_s)}, 99{GAP}% within {seconds(found.p99_s)}."
    )
    lost = found.created - found.active
    if lost:
        said += f" {number(lost)} did not; the most frequent reason: {found.faults[0].message.rstrip('.')}."
    return said + end


def _tiles(found: Storm) -> list[Tile]:
    good = "good" if found.active == found.created else "bad"
    return [
        Tile("Became ACTIVE", percent(found.active, found.created), f"{number(found.active)} of {number(found.created)}", good),
        Tile("ACTIVE a second", rate(found.active_per_s), "from the first POST to the last server that was ACTIVE"),
        Tile(
            "p99 of POST to ACTIVE",
            seconds(found.p99_s),
            f"p50 {seconds(found.p50_s)}, p95 {seconds(found.p95_s)}, max {seconds(found.max_s)}",
        ),
        Tile("p99 of the POST", seconds(found.post_p99_s), f"p50 {seconds(found.post_p50_s)}"),
    ]


def _over_time(found: Storm) -> Markup | None:
    if not found.servers:
        return None
    ends = sorted(one.asked + one.seconds for one in found.servers if one.outcome == "active" and one.seconds is not None)
    asked = [one.asked for one in found.servers]
    across = charts.linear([*ends, *asked], ticks=5)
    up = charts.linear([len(asked)], ticks=4, whole=True)
    lines = [charts.Line("", _climb(asked)), charts.Line("good", _climb(ends))]
    told = f"{len(asked)} servers asked for within {seconds(max(asked))}, {len(ends)} ACTIVE" + (f" by {seconds(ends[-1])}" if ends else "")
    ticks = [short(tick) for tick in across.ticks]
    climb = charts.Plot(across, up, ticks, [number(tick) for tick in up.ticks], told, lines, height=200)
    every = len(found.servers) // MOST_SPECKS + 1
    shown = [one for one in found.servers if one.seconds is not None and one.outcome in ("active", "error")][::every]
    high = charts.linear([one.seconds or 0.0 for one in shown], ticks=4)
    specks = [(one.asked, one.seconds or 0.0, "good" if one.outcome == "active" else "bad") for one in shown]
    when = charts.linear(asked, ticks=5)
    told = (
        f"from {seconds(min((y for _, y, _ in specks), default=None))} to {seconds(max((y for _, y, _ in specks), default=None))} a server"
    )
    each = charts.Plot(
        when, high, [short(tick) for tick in when.ticks], [short(tick) for tick in high.ticks], told, points=specks, height=200
    )
    keys = charts.legend([("plain", "asked for"), ("good", "ACTIVE"), ("bad", "ERROR")])
    return page.section(
        f"{rate(found.asked_per_s)} asked for, {rate(found.active_per_s)} made",
        "Above: how many were asked for, and how many were ACTIVE by then. Below: a point for each server.",
        page.figure([charts.plot(climb), keys], "Servers, summed up over time"),
        page.figure(charts.plot(each), "Seconds from POST to the end of the build, by when the server was asked for"),
    )


def _climb(moments: Sequence[float]) -> list[tuple[float, float | None]]:
    """How many by when, at a few hundred places."""
    if not moments:
        return []
    ordered = sorted(moments)
    places = [ordered[-1] * n / 200 for n in range(201)]
    return [(at, float(bisect_right(ordered, at))) for at in places]


def _distribution(found: Storm) -> Markup | None:
    took = sorted(one.seconds for one in found.servers if one.outcome == "active" and one.seconds is not None)
    if not took:
        return None
    across = charts.linear(took)
    width = across.high / COLUMNS
    counts = [0] * COLUMNS
    for value in took:
        counts[min(COLUMNS - 1, int(value / width))] += 1
    up = charts.linear([max(counts)], ticks=4, whole=True)
    columns = [
        (n * width, (n + 1) * width, float(count), "good", f"{seconds(n * width)} to {seconds((n + 1) * width)}: {count} servers")
        for n, count in enumerate(counts)
        if count
    ]
    told = f"{len(took)} servers took from {seconds(took[0])} to {seconds(took[-1])}, half of them at most {seconds(found.p50_s)}"
    picture = charts.Plot(
        across, up, [short(tick) for tick in across.ticks], [number(tick) for tick in up.ticks], told, columns=columns, height=180
    )
    lines = [[f"{part:g}{GAP}%", seconds(took[max(0, -int(-len(took) * part // 100) - 1)])] for part in (10, 25, 50, 75, 90, 95, 99, 100)]
    return page.section(
        f"Half of them took at most {seconds(found.p50_s)}, the slowest {seconds(found.max_s)}",
        f"Servers by seconds from their POST until a poll of the list saw them ACTIVE; polls came every {seconds(found.poll_s)}.",
        page.figure(charts.plot(picture), "Servers by how long they took"),
        page.fold("As figures", page.table(["of all servers", "took at most"], lines, "POST to ACTIVE")),
    )


def _faults(found: Storm) -> Markup | None:
    if not found.faults:
        return None
    axis = charts.linear([fault.count for fault in found.faults], ticks=4, whole=True)
    lines = [
        charts.Row(
            fault.message, [charts.bar(axis, fault.count, "bad")], [tag("b", number(fault.count)), f" {fault.outcome}"], str(fault.count)
        )
        for fault in found.faults
    ]
    examples = [[fault.message, fault.outcome, number(fault.count), fault.example] for fault in found.faults]
    return page.section(
        f"{number(sum(fault.count for fault in found.faults))} servers did not become ACTIVE, for {_reasons(len(found.faults))}",
        "refused: the POST was answered with no. error: the server went to ERROR. unfinished: it was neither ACTIVE nor in ERROR in time.",
        page.figure(charts.rows(lines, axis, [number(tick) for tick in axis.ticks])),
        page.fold(
            "One example of each", page.table(["reason", "kind", "servers", "example"], examples, "As the cloud said it", words=(0, 1, 3))
        ),
    )


def _reasons(count: int) -> str:
    return "one reason" if count == 1 else f"{count} reasons"


def _windows(found: Storm) -> Markup | None:
    if not found.windows:
        return None
    lines = [
        [seconds(window.start), number(window.created), number(window.active), seconds(window.p50_s), seconds(window.p99_s)]
        for window in found.windows
    ]
    growing = stability.grows(found.windows)
    title = (
        "Latency grows while the load stays: the cloud is slower than the storm"
        if growing
        else "Latency does not grow while the load stays"
    )
    head = ["began at", "asked for", "ACTIVE", "p50", "p99"]
    return page.section(title, "Servers by when they were asked for.", page.table(head, lines, "Windows of the storm"))


def _how(found: Storm) -> Markup:
    wish, deletes = found.wish, found.deletes
    place = urlsplit(found.cloud.get("compute", ""))
    gone = (
        "kept, as asked for"
        if deletes.kept
        else f"{number(deletes.gone)} deleted in {seconds(deletes.seconds)}, {number(deletes.left)} left"
    )
    return page.section(
        "What was asked for, and of whom",
        None,
        page.facts(
            {
                "cloud": f"{found.cloud.get('name', '')} ({place.scheme}://{place.netloc}, region {found.cloud.get('region', '')})",
                "servers": f"{number(wish.count)}, {rate(wish.rate) if wish.rate else 'all at once'}",
                "image, flavor, network": f"{found.made_of.image_name}, {found.made_of.flavor_name}, {found.made_of.network_name}",
                "time limit": f"{seconds(wish.timeout)} after the last create",
                "how the end of a build was seen": f"the list of the storm's servers, every {seconds(found.poll_s)}",
                "afterwards": gone,
                "began": page.moment(found.started_at),
                "took, deletes included": page.lasted(found.seconds),
            }
        ),
        page.fold(f"All {number(len(found.servers))} servers", _each(found.servers)),
    )


def _each(servers: Sequence[Made]) -> Markup:
    lines = [
        [one.name, seconds(one.asked), seconds(one.post), seconds(one.seconds), one.outcome, one.fault] for one in servers[:MOST_SPECKS]
    ]
    return page.table(["server", "asked for at", "POST took", "whole", "outcome", "fault"], lines, "Each server", words=(0, 4, 5))
