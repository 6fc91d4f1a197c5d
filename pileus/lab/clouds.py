"""Which cloud, and how to log in there: clouds.yaml and the OS_* environment, read as OpenStack's own client reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pileus.errors import StartupError

SUFFIXES = (".yaml", ".yml", ".json")
AUTH_KEYS = (
    *("auth_url", "username", "user_id", "password", "token", "project_name", "project_id", "user_domain_name", "user_domain_id"),
    *("project_domain_name", "project_domain_id", "default_domain", "domain_name", "domain_id", "system_scope"),
    *("application_credential_id", "application_credential_name", "application_credential_secret"),
)
OLD_NAMES = {"tenant_name": "project_name", "tenant_id": "project_id", "endpoint_type": "interface", "auth_token": "token"}
TYPES = {
    **dict.fromkeys(("", "password", "v3password"), "password"),
    **dict.fromkeys(("token", "v3token"), "token"),
    "v3applicationcredential": "application_credential",
}
"""`auth_type` → how Keystone calls the method."""


@dataclass(frozen=True)
class Access:
    """`verify`: False, True, or a file of certificates. `overrides`: service type → its URL instead of the catalogue's."""

    name: str
    method: str
    auth: Mapping[str, str] = field(repr=False)
    region: str = ""
    interface: str = "public"
    verify: bool | str = True
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def auth_url(self) -> str:
        """Keystone's, with its /v3."""
        return self.auth["auth_url"].rstrip("/").removesuffix("/v3") + "/v3"


def find(name: str | None, environ: Mapping[str, str], *, folder: Path, home: Path) -> Access:
    """The cloud `name`, or the one that the environment means: OS_CLOUD, OS_AUTH_URL, or the only one of clouds.yaml.

    Raises StartupError, which says what is missing and where it was looked for.
    """
    name = name or environ.get("OS_CLOUD") or None
    if name is None and environ.get("OS_AUTH_URL"):
        return _access("the environment", _of_environment(environ))
    file, clouds = _files(environ, folder, home)
    if name is None:
        if len(clouds) != 1:
            which = f"{file} names several clouds ({', '.join(clouds)})" if clouds else "no clouds.yaml and no OS_AUTH_URL was found"
            raise StartupError(f"which cloud? {which}; say it with --os-cloud NAME, or set OS_CLIENT_CONFIG_FILE or OS_AUTH_URL")
        name = next(iter(clouds))
    if name not in clouds:
        known = f"{file} names {', '.join(clouds)}" if file else "no clouds.yaml was found; OS_CLIENT_CONFIG_FILE says where it is"
        raise StartupError(f"there is no cloud {name!r}: {known}")
    found = clouds[name]
    if not isinstance(found, dict):
        raise StartupError(f"{file}: the cloud {name!r} is no table")
    if "profile" in found or "cloud" in found:
        raise StartupError(f"{file}: cloud {name!r}: vendor profiles are not read here; write auth_url and region_name into it")
    return _access(name, found)


def _files(environ: Mapping[str, str], folder: Path, home: Path) -> tuple[Path | None, dict[str, Any]]:
    """The first clouds.yaml of the usual places, with what secure.yaml adds to it."""
    places = [folder, home / ".config" / "openstack", Path("/etc/openstack")]
    file = _first(environ.get("OS_CLIENT_CONFIG_FILE"), "clouds", places)
    clouds = _clouds(file)
    secure = _first(environ.get("OS_CLIENT_SECURE_FILE"), "secure", places)
    return file, _merged(clouds, _clouds(secure))


def _first(given: str | None, stem: str, places: list[Path]) -> Path | None:
    candidates = [Path(given)] if given else []
    candidates += [place / f"{stem}{suffix}" for place in places for suffix in SUFFIXES]
    return next((file for file in candidates if file.exists()), None)


def _clouds(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    import yaml  # type: ignore[import-untyped]

    try:
        read = yaml.safe_load(file.read_text())
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StartupError(f"{file}: {' '.join(str(error).split())}") from None
    clouds = (read or {}).get("clouds") if isinstance(read, dict) or read is None else None
    if clouds is not None and not isinstance(clouds, dict):
        raise StartupError(f"{file}: `clouds` is no table of clouds")
    return {str(name): value for name, value in (clouds or {}).items()}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    made = dict(one)
    for key, value in other.items():
        before = made.get(key)
        made[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return made


def _of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return {key.removeprefix("OS_").lower(): value for key, value in environ.items() if key.startswith("OS_") and value}


def _access(name: str, told: Mapping[str, Any]) -> Access:
    flat = {_plain(key): value for key, value in told.items()}
    inner = flat.get("auth") if isinstance(flat.get("auth"), dict) else {}
    auth = {key: flat[key] for key in AUTH_KEYS if flat.get(key) is not None}
    auth |= {_plain(key): value for key, value in (inner or {}).items()}
    auth = {key: str(value) for key, value in auth.items() if value not in (None, "")}
    if "auth_url" not in auth:
        raise StartupError(f"cloud {name}: auth_url is missing")
    if not _is_url(auth["auth_url"]):
        raise StartupError(f"cloud {name}: auth_url {auth['auth_url']!r} is no URL; it is like https://keystone.example:5000/v3")
    kind = str(flat.get("auth_type") or "")
    if kind not in TYPES:
        raise StartupError(f"cloud {name}: auth_type {kind!r} is not known here; known: {', '.join(filter(None, TYPES))}")
    method = TYPES[kind]
    if not kind and "application_credential_secret" in auth:
        method = "application_credential"
    elif not kind and "token" in auth and "password" not in auth:
        method = "token"
    needed = {"password": ("password",), "token": ("token",), "application_credential": ("application_credential_secret",)}[method]
    missing = [key for key in needed if key not in auth]
    if method == "password" and not ("username" in auth or "user_id" in auth):
        missing.insert(0, "username")
    if missing:
        raise StartupError(f"cloud {name}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return Access(
        name,
        method,
        auth,
        region=str(_region(flat) or ""),
        interface=_interface(flat),
        verify=_verify(flat),
        overrides={
            key.removesuffix("_endpoint_override").replace("_", "-"): str(value).rstrip("/")
            for key, value in flat.items()
            if key.endswith("_endpoint_override") and value
        },
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _plain(key: Any) -> str:
    """A key with underscores, and by the name it has today."""
    name = str(key).replace("-", "_").lower()
    return OLD_NAMES.get(name, name)


def _region(flat: Mapping[str, Any]) -> Any:
    """`region_name`, or the first of `regions`."""
    regions = flat.get("regions")
    first = regions[0] if isinstance(regions, list) and regions else None
    return flat.get("region_name") or (first.get("name") if isinstance(first, dict) else first)


def _interface(flat: Mapping[str, Any]) -> str:
    said = flat.get("interface") or "public"
    return str(said[0] if isinstance(said, list) else said).removesuffix("URL")


def _verify(flat: Mapping[str, Any]) -> bool | str:
    if _true(flat.get("insecure", False)) or not _true(flat.get("verify", True)):
        return False
    return str(Path(str(flat["cacert"])).expanduser()) if flat.get("cacert") else True


def _true(value: Any) -> bool:
    return value.lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)
