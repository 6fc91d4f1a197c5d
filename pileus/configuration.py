"""Settings from their sources, the later ones winning: defaults, the profile, a TOML file, PILEUS_* environment, flags.

An environment variable names its setting with two underscores for the dot: `PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT=60`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from pileus.errors import StartupError
from pileus.profiles import PROFILES
from pileus.settings import SECRET, Section, Settings

SHORT = {"PILEUS_ADMIN_PASSWORD": "identity.admin_password"}
"""Names of their own in the environment."""

ALIASES = {
    "heal_instance_info_cache": "compute.heal_instance_info_cache_interval",
    "compute.heal_instance_info_cache": "compute.heal_instance_info_cache_interval",
}
"""What else a setting may be called, wherever it is written."""

EVERY_ROLE = "*"
"""Of `load`: a profile's settings whatever role they are for, to be shown."""

WRITTEN = {dict: "name=value, …", list: "value, …"}
"""How lists and tables are written in the environment (in TOML: as TOML has them)."""


class Origin(msgspec.Struct, frozen=True):
    """One setting as `pileus config` shows it."""

    key: str
    value: Any
    origin: str
    help: str
    allowed: str


class Difference(msgspec.Struct, frozen=True):
    """One setting of a profile. `value` and `origin`: what holds now, and whose word that is. `where`: the one role that it is for."""

    key: str
    default: Any
    profile: Any
    value: Any
    origin: str
    reason: str
    where: str


@dataclass(frozen=True)
class _Given:
    """A value as one source has it. `name`: how the source calls the setting."""

    key: str
    value: Any
    origin: str
    name: str


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    role: str = "",
) -> tuple[Settings, dict[str, str]]:
    """Settings and, for each key that is not at its default, where it came from.

    `flags` maps dotted keys to values; None values are left out. `role`: what the process is (`network-rpc`, …): some of a profile's
    settings are for one role only. Raises StartupError that names the key and what is allowed.
    """
    given = [*_of_file(file), *_of_environment(os.environ if environ is None else environ), *_of_flags(flags or {})]
    _check_once(given)
    chosen = next((each.value for each in reversed(given) if each.key == "profile"), "default")
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for each in [*_of_profile(chosen, role), *given]:
        _put(tree, origins, each)
    try:
        return msgspec.convert(tree, Settings, strict=False), origins
    except msgspec.ValidationError as error:
        raise _explain(error, origins) from None


def describe(settings: Settings, origins: Mapping[str, str]) -> list[Origin]:
    """Every setting with its value, origin and help, in the order of the tree. A secret's value is not told, only that there is one."""
    return [Origin(key, _shown(settings, key, kind), origins.get(key, "default"), *_doc(kind)) for key, kind in _kinds().items()]


def differences(settings: Settings, origins: Mapping[str, str]) -> list[Difference]:
    """What the profile of these settings says, in its order, beside the default and what holds."""
    default = Settings()
    return [
        Difference(
            each.key,
            value_of(default, each.key),
            each.value,
            value_of(settings, each.key),
            origins.get(each.key, "default"),
            each.reason,
            each.role,
        )
        for each in PROFILES.get(settings.profile, ())
    ]


def value_of(settings: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every setting."""
    for name, kind in get_type_hints(section, include_extras=True).items():
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


@cache
def _kinds() -> Mapping[str, Any]:
    """Dotted key → type, of every setting."""
    return dict(leaves(Settings))


def _of_profile(name: Any, role: str) -> list[_Given]:
    """Nothing for a name that is no profile: that it is none is said where its value is checked."""
    wanted = [each for each in PROFILES.get(str(name), ()) if role == EVERY_ROLE or each.role in ("", role)]
    return [_Given(each.key, each.value, f"profile {name}", each.key) for each in wanted]


def _of_file(file: Path | None) -> list[_Given]:
    if file is None:
        return []
    return [_Given(ALIASES.get(name, name), value, str(file), name) for name, value in _flatten(_read_toml(file))]


def _of_environment(environ: Mapping[str, str]) -> list[_Given]:
    found = []
    for variable, text in environ.items():
        if variable.startswith("PILEUS_"):
            name = SHORT.get(variable) or variable.removeprefix("PILEUS_").lower().replace("__", ".")
            key = ALIASES.get(name, name)
            found.append(_Given(key, _from_text(key, text), f"environment {variable}", variable))
    return found


def _of_flags(flags: Mapping[str, Any]) -> list[_Given]:
    return [_Given(ALIASES.get(name, name), value, "command line", name) for name, value in flags.items() if value is not None]


def _check_once(given: list[_Given]) -> None:
    """No source may call one setting by two names: which one is meant nobody could say."""
    seen: dict[tuple[str, str], _Given] = {}
    for each in given:
        source = (each.key, each.origin.partition(" ")[0] if each.origin.startswith("environment ") else each.origin)
        before = seen.setdefault(source, each)
        if before is not each and before.value != each.value:
            raise StartupError(f"{before.name} and {each.name} ({each.origin}) are one setting, {each.key}: keep one of them")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise StartupError(f"settings file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"settings file {file}: {error}") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    kinds = _kinds()
    for name, value in tree.items():
        key = prefix + name
        if isinstance(value, dict) and key not in kinds:
            yield from _flatten(value, key + ".")
        else:
            yield key, value


def _put(tree: dict[str, Any], origins: dict[str, str], given: _Given) -> None:
    known = _kinds()
    key = given.key
    if key not in known:
        near = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        hint = f"; did you mean {near[0]}?" if near else "; `pileus config` lists what there is"
        raise StartupError(f"unknown setting {key!r} ({given.origin}){hint}")
    *folders, leaf = key.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[leaf] = given.value
    origins[key] = given.origin


def _from_text(key: str, text: str) -> Any:
    """A list setting is written with commas, a table as key=value with commas; the rest is converted by its type."""
    kind = _kinds().get(key)
    base = get_origin(_bare(kind)) if kind is not None else None
    if base is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if base is dict:
        parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
        return {name: value for name, _, value in parts} if all(sign for _, sign, _ in parts) else text
    return text


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def _metas(kind: Any) -> list[Meta]:
    return [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, Meta)]


def _doc(kind: Any) -> tuple[str, str]:
    """Help and what is allowed, in words."""
    metas = _metas(kind)
    text = next((m.description for m in metas if m.description), "")
    base = _bare(kind)
    if get_origin(base) is Literal:
        return text, " | ".join(map(str, get_args(base)))
    parts = [WRITTEN.get(get_origin(base), getattr(base, "__name__", str(base)))]
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("pattern", "matching")):
        parts += [f"{sign} {getattr(m, name)}" for m in metas if getattr(m, name) is not None]
    return text, " ".join(parts)


def _shown(settings: Settings, key: str, kind: Any) -> Any:
    value = value_of(settings, key)
    secret = any(meta.extra == SECRET for meta in _metas(kind))
    return "(set, not shown)" if secret and value else value


def _explain(error: msgspec.ValidationError, origins: Mapping[str, str]) -> StartupError:
    text, _, path = str(error).partition(" - at `$.")
    key = path.rstrip("`").split("[")[0]
    kinds = _kinds()
    if key not in kinds:
        return StartupError(f"settings: {error}")
    return StartupError(f"setting {key} ({origins.get(key, 'default')}): {text}; allowed: {_doc(kinds[key])[1]}")
