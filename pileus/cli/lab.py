"""`pileus lab …`: storms, experiments, and what follows from figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Storms and experiments. Against this cloud or another; and what their figures say.")

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was found as JSON.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a report: one page that loads nothing.")]


QUICK_TIMEOUT, QUICK_CASES = 20.0, "start,rpc,all,default"


@app.command("story")
def lab_story(
    plug_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=2,
            help="compute.vif_plugging_timeout; how long loads go on is chosen by it [default: 300, as in the story].",
        ),
    ] = None,
    cases: Annotated[str, typer.Option(metavar="NAME,…", help="Which cases, in this order [default: all; `list` lists them].")] = "",
    hosts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Hollow hosts [default: 0.7 for each second of that timeout].")
    ] = None,
    servers: Annotated[int, typer.Option(metavar="N", min=20, help="The standing population.")] = 400,
    round_trip: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=1, help="Added to each round trip to database and REST.")
    ] = 0.001,
    rung: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=1, help="For how long each load is held [default: the plug timeout].")
    ] = None,
    together: Annotated[int, typer.Option(metavar="N", min=1, max=8, help="Cases at once, where waiting is the limit.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"A look: by default plug timeout {QUICK_TIMEOUT:g} s, cases {QUICK_CASES}. The report says so.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What a real switch's steps take [default: this user's, else what came with us].")
    ] = None,
    json: JsonFile = None,
    html: HtmlFile = None,
) -> None:
    """The story, told by figures. Each of its settings predicted, then measured on real processes."""
    from pileus.cli import story

    if cases == "list":
        story.show_cases()
        return
    names = [name.strip() for name in (cases or (QUICK_CASES if quick else "")).split(",") if name.strip()]
    story.run_story(
        story.options(
            names,
            plug_timeout=plug_timeout or (QUICK_TIMEOUT if quick else story.STORY_TIMEOUT),
            hosts=hosts,
            servers=servers,
            round_trip=round_trip,
            rung=rung,
            together=together,
        ),
        calibration,
        json=json,
        html=html,
    )


@app.command("calibrate")
def lab_calibrate(
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where it goes [default: pileus/calibration.json in the user's state folder]."),
    ] = None,
) -> None:
    """What a real switch's steps take here. For the simulated ones of `story`; root, Open vSwitch and PostgreSQL are needed."""
    from pileus.cli.story import run_calibrate

    run_calibrate(output)


@app.command("storm")
def lab_storm(
    os_cloud: Annotated[
        str | None, typer.Option(metavar="NAME", help="A cloud of clouds.yaml [default: what the OS_* variables say, or the only one].")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, max=20000, help="How many servers.")] = 20,
    rate: Annotated[float, typer.Option(metavar="PER_S", min=0, help="Creates a second; 0: all at once.")] = 0.0,
    image: Annotated[str | None, typer.Option(metavar="NAME|ID", help="[default: the only one there is; none: without].")] = None,
    flavor: Annotated[str | None, typer.Option(metavar="NAME|ID", help="[default: the smallest that the image fits into].")] = None,
    network: Annotated[str | None, typer.Option(metavar="NAME|ID", help="[default: the project's only one].")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the servers at the end.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long to wait after the last create, and for deletes.")
    ] = 600.0,
    poll: Annotated[float, typer.Option(metavar="SECONDS", min=0.01, help="Pause between two looks at the list of servers.")] = 0.2,
    json: JsonFile = None,
    html: HtmlFile = None,
) -> None:
    """Many servers on any OpenStack cloud. Made, timed, counted, and deleted again, also after Ctrl-C."""
    from pileus.cli.storm import run
    from pileus.lab.storm import Wish

    wish = Wish(count, rate, poll, timeout, keep)
    run(os_cloud, wish, {"image": image, "flavor": flavor, "network": network}, json=json, html=html)


@app.command("advise")
def lab_advise(
    url: Annotated[
        list[str], typer.Option("--url", metavar="URL", help="A process's /metrics (metrics.listen); give it for each process.")
    ],
    os_cloud: Annotated[
        str | None, typer.Option(metavar="NAME", help="The cloud in clouds.yaml: how many hosts are up, and where boots spend their time.")
    ] = None,
    window: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Between the two looks at the figures.")] = 60.0,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The cloud's settings [default: PILEUS_* or defaults].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a running cloud's settings should be. From what its processes measure, with the arithmetic."""
    from pileus.cli.advise import run

    run(url, window, config, os_cloud, as_json=as_json)


@app.command("report")
def lab_report(
    file: Annotated[Path, typer.Argument(metavar="JSON", help="What `story` or `storm` wrote with --json.")],
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="Where the page goes.")],
) -> None:
    """The page of an earlier run. Made anew from its JSON."""
    from pileus.cli.report import run

    run(file, html)
