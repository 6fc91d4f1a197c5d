"""Profiles: what they set is a setting, has a reason and no more weight than a default; and `pileus config --profile` says it."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pileus
from pileus import configuration
from pileus.cli import config
from pileus.cli.main import app
from pileus.configuration import EVERY_ROLE, differences, load, value_of
from pileus.profiles import PROFILES, STORY
from pileus.settings import Settings

KEYS = [choice.key for choice in STORY]


def test_a_profile_is_values_of_settings_each_with_a_reason() -> None:
    found, origins = load(environ={}, flags={"profile": "story"}, role=EVERY_ROLE)
    assert len(set(KEYS)) == len(KEYS)
    for choice in STORY:
        assert value_of(found, choice.key) == choice.value
        assert type(value_of(found, choice.key)) is type(choice.value), choice.key
        assert origins[choice.key] == "profile story"
        assert choice.reason.endswith(".") and len(choice.reason) > 20
    untouched = [one for one in configuration.describe(found, origins) if one.origin == "default"]
    assert not {one.key for one in untouched} & set(KEYS)
    assert set(PROFILES) == {"default", "story"}
    assert PROFILES["default"] == ()


def test_the_default_profile_is_the_defaults() -> None:
    assert load(environ={})[0] == load(environ={"PILEUS_PROFILE": "default"})[0] == Settings()


def test_what_you_set_yourself_wins(tmp_path: Path) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text('profile = "story"\n[network]\nrpc_workers = 20\npolling_interval = 1\n[compute]\nheal_instance_info_cache = 600\n')
    found, origins = load(file, {"PILEUS_NETWORK__FLOW_DELETION": "bundled"}, {"network.polling_interval": 0.5})
    assert (found.network.rpc_workers, found.network.flow_deletion, found.network.polling_interval) == (20, "bundled", 0.5)
    assert found.compute.heal_instance_info_cache_interval == 600
    assert origins["network.rpc_workers"] == str(file)
    assert (found.compute.hold_build_slot, origins["compute.hold_build_slot"]) == (True, "profile story")


@pytest.mark.parametrize(("role", "size"), [("network-rpc", 1), ("worker", 10), ("api", 10), ("up", 10), ("", 10)])
def test_the_pool_of_one_is_the_network_server_s(role: str, size: int) -> None:
    assert load(environ={"PILEUS_PROFILE": "story"}, role=role)[0].database.max_pool_size == size


def test_the_last_source_names_the_profile(tmp_path: Path) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text('profile = "story"\n')
    assert load(file, {})[0].profile == "story"
    found, origins = load(file, {"PILEUS_PROFILE": "default"})
    assert (found.profile, found.compute.plug_signal, origins) == ("default", "local", {"profile": "environment PILEUS_PROFILE"})


def test_nothing_asks_for_the_name_of_a_profile() -> None:
    root = Path(pileus.__file__).parent
    naming = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == "story"
    }
    lab = ("lab/", "cli/lab")  # it starts clouds with it
    assert {name for name in naming if not name.startswith(lab)} == {"settings.py", "profiles.py"}


def run(*words: str, **environ: str) -> str:
    told = CliRunner(env={**environ}).invoke(app, list(words))
    assert told.exit_code == 0, told.output
    return told.stdout


def test_config_shows_the_difference_and_why() -> None:
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in run("config", "--profile", "story").splitlines()}
    assert sorted(rows) == sorted(KEYS)
    assert rows["compute.plug_signal"][:3] == ['"local"', '"callback"', ""]
    assert "Only in `pileus serve network-rpc`." in rows["database.max_pool_size"][3]
    assert rows["network.rpc_workers"][3].endswith("The default is the same.")
    same = [default == story for default, story, *_ in rows.values()]
    assert same == sorted(same)  # what differs stands first


def test_config_shows_what_you_chose_yourself_beside_it() -> None:
    rows = {
        line.split("\t")[0]: line.split("\t")[1:]
        for line in run("config", "--profile", "story", PILEUS_NETWORK__NOTIFY="until_delivered").splitlines()
    }
    assert rows["network.notify"][:3] == ['"until_delivered"', '"once"', '"until_delivered" (environment PILEUS_NETWORK__NOTIFY)']


def test_config_of_a_profile_as_json() -> None:
    found = {one["key"]: one for one in json.loads(run("config", "--profile", "story", "--json"))}
    assert sorted(found) == sorted(KEYS)
    reread = found["compute.vif_plugging_reread"]
    assert (reread["default"], reread["profile"], reread["value"], reread["origin"]) == (True, False, False, "profile story")
    assert json.loads(run("config", "--profile", "default", "--json")) == []


@pytest.mark.parametrize(
    ("profile", "words"), [("story", ["network.flow_deletion", "blocking", "why", "--profile story"]), ("default", ["sets nothing"])]
)
def test_config_of_a_profile_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str, words: list[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    config.show_profile(*load(environ={"PILEUS_PROFILE": profile}), as_json=False)
    told = capsys.readouterr().out
    assert all(word in told for word in words), told


def test_a_profile_that_is_none_is_one_line() -> None:
    with pytest.raises(pileus.errors.StartupError, match=r"setting profile \(environment PILEUS_PROFILE\).*default \| story") as caught:
        load(environ={"PILEUS_PROFILE": "stroy"})
    assert "\n" not in str(caught.value)


def test_differences_know_nothing_of_a_default_profile() -> None:
    assert differences(*load(environ={})) == []


def test_the_story_s_document_has_the_table() -> None:
    text = (Path(pileus.__file__).parent.parent / "docs" / "STORY.md").read_text()
    table = text.split("<!-- profile -->")[1].split("<!-- end -->")[0]
    rows = [line.split("|")[1:-1] for line in table.strip().splitlines()[2:]]
    found, origins = load(environ={}, flags={"profile": "story"}, role=EVERY_ROLE)
    told = {key.strip(" `"): (default.strip(), story.strip()) for key, default, story in rows}
    assert told == {one.key: (config.written(one.default), config.written(one.profile)) for one in differences(found, origins)}


def test_the_four_changes_of_the_document_are_settings(tmp_path: Path) -> None:
    text = (Path(pileus.__file__).parent.parent / "docs" / "STORY.md").read_text()
    file = tmp_path / "changes.toml"
    file.write_text(text.split("```toml\n")[1].split("```")[0])
    found, origins = load(file, {}, role="network-rpc")
    assert found.compute.heal_instance_info_cache_interval == 600.0
    assert (found.network.rpc_workers, found.database.max_pool_size, found.network.flow_deletion) == (20, 60, "bundled")
    assert (found.network.agent_loop, origins["network.agent_loop"]) == ("serial", "profile story")
