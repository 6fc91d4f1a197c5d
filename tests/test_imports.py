"""The house's rule: imports run downwards only, and there are no circles (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pileus

ROOT = Path(pileus.__file__).parent
SERVICES = ("identity", "image", "placement", "compute", "network")

# From the top of the house to its ground; a module may import from its own floor and from those below.
FLOORS: list[tuple[str, ...]] = [
    ("pileus.cli", "pileus.__main__"),
    ("pileus.lab",),
    ("pileus.cloud", "pileus.serving", "pileus.choice"),
    ("pileus.roles",),
    ("pileus.services",),
    ("pileus.firststart", "pileus.hosts", "pileus.operator_api"),
    *[tuple(f"pileus.{service}.api" for service in SERVICES)],
    ("pileus.tables",),
    tuple(f"pileus.{service}" for service in SERVICES),
    ("pileus.host",),
    ("pileus.http",),
    ("pileus.store", "pileus.bus", "pileus.clients", "pileus.qemuimg", "pileus.tinyguest"),
    ("pileus.timeline",),
    (
        "pileus.configuration",
        "pileus.profiles",
        "pileus.settings",
        "pileus.messages",
        "pileus.errors",
        "pileus.context",
        "pileus.parts",
        "pileus.metrics",
        "pileus.metrics_server",
        "pileus.gather",
        "pileus.hearing",
        "pileus.together",
        "pileus.lockfile",
        "pileus.process",
        "pileus.supervisor",
    ),
    ("pileus",),
]
RULES_MAY_NOT = ("pileus.http", "pileus.host")


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return {name for name in found if name.split(".")[0] == "pileus"}


def floor(module: str) -> int:
    best = max(
        ((len(prefix), number) for number, prefixes in enumerate(FLOORS) for prefix in prefixes if f"{module}.".startswith(f"{prefix}.")),
        default=(0, -1),
    )
    return best[1]


ALL = modules()
GRAPH = {name: imports(tree, set(ALL)) - {name} for name, tree in ALL.items()}


def test_every_module_has_a_floor() -> None:
    assert [name for name in ALL if floor(name) < 0] == []


def test_imports_run_downwards() -> None:
    assert [f"{a} imports {b}" for a, found in sorted(GRAPH.items()) for b in sorted(found) if floor(b) < floor(a)] == []


def test_a_service_knows_no_other() -> None:
    def service(module: str) -> str:
        parts = module.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in SERVICES else ""

    assert [f"{a} imports {b}" for a, found in GRAPH.items() for b in found if service(a) and service(b) and service(a) != service(b)] == []


def test_rules_and_hosts_know_no_http_and_no_other_house() -> None:
    rules = [name for name in GRAPH if name.split(".")[1:2] and name.split(".")[1] in SERVICES and ".api" not in name]
    hosts = [name for name in GRAPH if name.startswith("pileus.host.") or name == "pileus.host"]
    wrong = [f"{a} imports {b}" for a in rules for b in GRAPH[a] if b.startswith(RULES_MAY_NOT)]
    wrong += [f"{a} imports {b}" for a in hosts for b in GRAPH[a] if b.startswith("pileus.http") or b.split(".")[1:2] == ["store"]]
    wrong += [f"{a} imports {b}" for a in hosts for b in GRAPH[a] if b.split(".")[1:2] and b.split(".")[1] in SERVICES]
    assert wrong == []


def test_no_circles() -> None:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = path[path.index(name) :]
            # A package and its own modules may name one another where the package only declares the seam.
            raise AssertionError(" → ".join((*circle, name)))
        if name in done or name not in GRAPH:
            return
        for other in GRAPH[name]:
            walk(other, (*path, name))
        done.add(name)

    for module in GRAPH:
        walk(module, ())
