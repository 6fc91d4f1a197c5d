"""deploy/compose.yaml and deploy/Dockerfile, as far as they can be tried without an engine for containers: commands, settings, names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from pileus import configuration, serving
from pileus.bus.authority import MAX_PAYLOAD
from tests.deploy.test_units import ROOT, parse

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "pileus"]


def test_all_roles_are_there() -> None:
    roles = {SERVICES[name]["command"][1] for name in OURS}
    assert roles == {"upgrade", "api", "worker", "network-rpc", "host"}
    assert set(SERVICES) - set(OURS) == {"postgres", "nats"}


@pytest.mark.parametrize("name", OURS)
def test_commands_and_settings_are_ours(name: str) -> None:
    words = SERVICES[name]["command"]
    given = parse(words)
    found, _ = configuration.load(environ=SERVICES[name]["environment"])
    if words[0] == "serve":
        serving.check(found, words[1])
    if words[1] == "host":
        assert (found.database.url, given["hypervisor"], given["hosts"]) == ("", "simulated", 20)
        assert found.host.api_url


def test_each_waits_for_what_is_there_and_names_volumes_that_are() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES) - {name}
        for needed, how in service.get("depends_on", {}).items():
            assert ("healthcheck" in SERVICES[needed]) == (how["condition"] == "service_healthy")
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]


def test_addresses_are_those_of_the_services() -> None:
    for name in OURS:
        urls = [value for key, value in SERVICES[name]["environment"].items() if key.endswith("URL")]
        hosts = [re.sub(r"^\w+://([^@/]*@)?([^:/]+).*$", r"\2", url) for url in urls]
        assert set(hosts) <= set(SERVICES)
    postgres = SERVICES["postgres"]["environment"]
    url = SERVICES["api"]["environment"]["PILEUS_DATABASE__URL"]
    assert url == f"postgresql://{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}@postgres:5432/{postgres['POSTGRES_DB']}"
    assert f"max_payload: {MAX_PAYLOAD}\n" in COMPOSE["configs"]["nats"]["content"]


def test_images_have_tags_and_no_registry() -> None:
    base = re.findall(r"^FROM (\S+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    for image in [*base, *(SERVICES[name]["image"] for name in ("postgres", "nats"))]:
        assert re.fullmatch(r"[a-z]+:[a-z0-9.-]+", image), image


def test_the_dockerfile_copies_what_is_there() -> None:
    build = SERVICES["upgrade"]["build"]
    file = ROOT / "deploy" / build["context"] / build["dockerfile"]
    sources = [word for line in re.findall(r"^COPY (.*)$", file.read_text(), re.MULTILINE) for word in line.split()[:-1]]
    assert sources and all((Path(ROOT) / source).exists() for source in sources)
