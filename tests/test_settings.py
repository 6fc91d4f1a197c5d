from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pileus import configuration, settings
from pileus.errors import StartupError


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text('[compute]\nvif_plugging_timeout = 10\nplug_signal = "callback"\n[api]\nlisten = "127.0.0.1:1"\n')
    found, origins = configuration.load(
        file,
        {"PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT": "20", "PILEUS_API__LISTEN": "127.0.0.1:2", "HOME": "/"},
        {"api.listen": "127.0.0.1:3"},
    )
    assert (found.compute.plug_signal, found.compute.vif_plugging_timeout, found.api.listen) == ("callback", 20.0, "127.0.0.1:3")
    assert origins["compute.plug_signal"] == str(file)
    assert origins["compute.vif_plugging_timeout"] == "environment PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT"
    assert origins["api.listen"] == "command line"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"PILEUS_NOTHING": "1"}, ["unknown setting 'nothing'", "PILEUS_NOTHING"]),
        ({"PILEUS_VIF_PLUGGING_TIMEOUT": "1"}, ["did you mean compute.vif_plugging_timeout?"]),
        ({"PILEUS_COMPUTE__PLUG_SIGNAL": "smoke"}, ["compute.plug_signal", "smoke", "local | callback"]),
        ({"PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT": "-1"}, ["compute.vif_plugging_timeout", "≥ 0"]),
        ({"PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT": "soon"}, ["compute.vif_plugging_timeout", "float"]),
        ({"PILEUS_NETWORK__RPC_WORKERS": "0"}, ["network.rpc_workers", "≥ 1"]),
        ({"PILEUS_API__LISTEN": "nowhere"}, ["api.listen", "matching"]),
        ({"PILEUS_HOST__BRIDGE_MAPPINGS": "eth1"}, ["host.bridge_mappings", "name=value"]),
        ({"PILEUS_HOST__BRIDGE_MAPPINGS": "a=eth1,eth2"}, ["host.bridge_mappings", "name=value"]),
        ({"PILEUS_COMPUTE__VIF_PLUGGING_IS_FATAL": "perhaps"}, ["compute.vif_plugging_is_fatal", "bool"]),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(StartupError) as caught:
        configuration.load(environ=environ)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        configuration.load(tmp_path / "none.toml", {})
    bad = tmp_path / "bad.toml"
    bad.write_text("= nonsense")
    with pytest.raises(StartupError, match=r"bad\.toml"):
        configuration.load(bad, {})
    unknown = tmp_path / "unknown.toml"
    unknown.write_text("[compute]\nspeed = 9\n")
    with pytest.raises(StartupError, match=r"unknown setting 'compute\.speed'"):
        configuration.load(unknown, {})


def test_lists_and_tables_from_the_environment() -> None:
    found, _ = configuration.load(environ={"PILEUS_NETWORK__VLAN_RANGES": "a:1:10, b", "PILEUS_HOST__BRIDGE_MAPPINGS": "a=eth1,b=eth2"})
    assert found.network.vlan_ranges == ["a:1:10", "b"]
    assert found.host.bridge_mappings == {"a": "eth1", "b": "eth2"}


@pytest.mark.parametrize("name", ["heal_instance_info_cache", "compute.heal_instance_info_cache"])
def test_the_story_s_name_of_a_setting_is_known_everywhere(tmp_path: Path, name: str) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text(f"{name} = 600\n")
    variable = f"PILEUS_{name.upper().replace('.', '__')}"
    for found, origins in (
        configuration.load(file, {}),
        configuration.load(environ={variable: "600"}),
        configuration.load(environ={}, flags={name: 600}),
    ):
        assert found.compute.heal_instance_info_cache_interval == 600.0
        assert list(origins) == ["compute.heal_instance_info_cache_interval"]
    assert set(configuration.ALIASES.values()) <= {key for key, _ in configuration.leaves(settings.Settings)}
    assert not set(configuration.ALIASES) & {key for key, _ in configuration.leaves(settings.Settings)}


def test_one_source_may_not_call_a_setting_by_two_names(tmp_path: Path) -> None:
    file = tmp_path / "pileus.toml"
    file.write_text("[compute]\nheal_instance_info_cache = 600\nheal_instance_info_cache_interval = 60\n")
    with pytest.raises(StartupError, match="are one setting"):
        configuration.load(file, {})
    file.write_text("[compute]\nheal_instance_info_cache = 600\n")
    found, _ = configuration.load(file, {"PILEUS_COMPUTE__HEAL_INSTANCE_INFO_CACHE_INTERVAL": "60"})
    assert found.compute.heal_instance_info_cache_interval == 60.0  # another source wins, as always


@pytest.mark.parametrize("name", ["PILEUS_ADMIN_PASSWORD", "PILEUS_IDENTITY__ADMIN_PASSWORD"])
def test_a_secret_is_taken_and_never_shown(name: str) -> None:
    found, origins = configuration.load(environ={name: "open-sesame"})
    assert found.identity.admin_password == "open-sesame"
    described = configuration.describe(found, origins)
    assert "open-sesame" not in repr(described)
    assert [(one.value, one.origin) for one in described if one.key == "identity.admin_password"] == [
        ("(set, not shown)", f"environment {name}")
    ]
    with pytest.raises(StartupError) as caught:
        configuration.load(environ={name: "open sesame"})
    assert "sesame" not in str(caught.value)


def test_every_setting_has_help_and_says_what_is_allowed() -> None:
    found, origins = configuration.load(environ={})
    described = configuration.describe(found, origins)
    assert [one.key for one in described if not one.help.endswith(".")] == []
    assert [one.key for one in described if not one.allowed] == []
    assert {one.origin for one in described} == {"default"}


def test_every_setting_is_read_somewhere() -> None:
    """No dead knobs (law 9): each setting is an attribute that some code takes; what only stands in words or tables is not read."""
    root = Path(settings.__file__).parent
    trees = [ast.parse(path.read_text()) for path in root.rglob("*.py") if path.name != "settings.py"]
    taken = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found, origins = configuration.load(environ={})
    dead = [one.key for one in configuration.describe(found, origins) if one.key.rsplit(".", 1)[-1] not in taken]
    dead = [key for key in dead if key.startswith("quota.") is False]  # read by name, as quota resources
    assert dead == []
