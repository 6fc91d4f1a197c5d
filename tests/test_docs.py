"""The documents say what the tables in the code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pileus
from pileus.compute import lifecycle
from pileus.network import readiness
from pileus.timeline import STEPS

ROOT = Path(pileus.__file__).parent.parent
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", ARCHITECTURE, re.DOTALL)
    assert found is not None
    return found[1].strip()


def test_the_lifecycle_is_the_table() -> None:
    assert section("lifecycle") == lifecycle.describe().strip()


def test_the_readiness_is_the_table() -> None:
    assert section("readiness") == readiness.describe().strip()


def test_every_step_is_told() -> None:
    assert [line.split("|")[1].strip() for line in section("steps").splitlines()[2:]] == list(STEPS)


def test_every_room_is_told() -> None:
    rooms = [path.name for path in (ROOT / "pileus").iterdir() if path.is_dir() and path.name not in ("__pycache__", "guest")]
    services = {"identity", "image", "placement", "compute", "network"}
    assert [room for room in rooms if room not in services and f"pileus/{room}/" not in ARCHITECTURE] == []


@pytest.mark.parametrize("document", ["README.md", "docs/MANY-MACHINES.md", "docs/LAB.md"])
def test_commands_of_the_documents_exist(document: str) -> None:
    from pileus.cli.main import app

    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    groups = {
        group.name: {each.name or getattr(each.callback, "__name__", "") for each in group.typer_instance.registered_commands}
        for group in app.registered_groups
        if group.typer_instance
    }
    told = re.findall(r"(?:^|[ `/])pileus ([a-z]+)(?: ([a-z-]+))?", (ROOT / document).read_text(), re.MULTILINE)
    commands = [(first, second) for first, second in told if first in known | set(groups)]
    assert len(commands) > 5
    assert [(first, second) for first, second in commands if first in groups and second not in groups[first]] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [path for path in re.findall(r"\]\(([^)#]+)\)", readme) if not (ROOT / path).exists()] == []


def test_decisions_have_a_number_and_a_reason() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert records
    for record in records:
        assert re.match(r"\d{4}-[a-z0-9-]+\.md", record.name)
        assert "## Why" in record.read_text()
