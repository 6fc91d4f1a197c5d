"""/v2.0/quotas"""

from __future__ import annotations

from typing import Any

from pileus.errors import Forbidden
from pileus.http.face import Call, Reply, Route
from pileus.network import quotas
from pileus.network.api import attributes
from pileus.network.api.attributes import boolean, integer, invalid
from pileus.network.config import Config
from pileus.network.service import Network
from pileus.store import Tx


def _limit(name: str, value: Any) -> int:
    limit = integer(name, value)
    if not -1 <= limit < 1 << 31:
        raise invalid(name, f"'{value}' is neither -1 (no limit) nor a number from 0 to {(1 << 31) - 1}")
    return limit


ATTRIBUTES = (
    *(attributes.Attribute(name, name, _limit) for name in quotas.RESOURCES),
    attributes.Attribute("check_limit", "check_limit", boolean),
    attributes.Attribute("force", "force", boolean),
)


async def index(network: Network, call: Call) -> Reply:
    """Projects that have limits of their own."""
    return Reply(200, {"quotas": await network.store.read(_all, network.config)})


async def show(network: Network, call: Call) -> Reply:
    limits = await network.store.read(quotas.limits, network.config, _project(call))
    return Reply(200, {"quota": limits})


async def default(network: Network, call: Call) -> Reply:
    _project(call)
    return Reply(200, {"quota": quotas.defaults(network.config)})


async def details(network: Network, call: Call) -> Reply:
    limits, used = await network.store.read(_details, network.config, _project(call))
    return Reply(200, {"quota": {name: {"limit": limits[name], "used": used[name], "reserved": 0} for name in quotas.RESOURCES}})


async def update(network: Network, call: Call) -> Reply:
    body = await attributes.body(call, "quota")
    values = attributes.convert(body, ATTRIBUTES, call.context, create=False, singular="quota")
    check = values.pop("check_limit", False)
    if values.pop("force", False) and check:
        raise attributes.bad("force and check_limit mean the opposite of one another: give one")
    limits = await network.store.write(_update, network.config, call.path["project_id"], values, check)
    return Reply(200, {"quota": limits})


async def reset(network: Network, call: Call) -> Reply:
    await network.store.write(quotas.reset, call.path["project_id"])
    return Reply(204)


def _project(call: Call) -> str:
    project_id = call.path["project_id"]
    if not call.context.sees(project_id):
        raise Forbidden("Only admin is authorized to access quotas for another project.", kind="HTTPForbidden")
    return project_id


def _all(tx: Tx, config: Config) -> list[dict[str, Any]]:
    return [
        quotas.limits(tx, config, project_id) | {"project_id": project_id, "tenant_id": project_id} for project_id in quotas.projects(tx)
    ]


def _details(tx: Tx, config: Config, project_id: str) -> tuple[dict[str, int], dict[str, int]]:
    return quotas.limits(tx, config, project_id), quotas.usage(tx, project_id)


def _update(tx: Tx, config: Config, project_id: str, values: dict[str, int], check: bool) -> dict[str, int]:
    if check:
        quotas.check_room(tx, project_id, values)
    quotas.set_limits(tx, project_id, values)
    return quotas.limits(tx, config, project_id)


ROUTES = [
    Route("GET", "/v2.0/quotas", index, "admin"),
    Route("GET", "/v2.0/quotas/{project_id}", show, "reader"),
    Route("PUT", "/v2.0/quotas/{project_id}", update, "admin"),
    Route("DELETE", "/v2.0/quotas/{project_id}", reset, "admin"),
    Route("GET", "/v2.0/quotas/{project_id}/default", default, "reader"),
    Route("GET", "/v2.0/quotas/{project_id}/details", details, "reader"),
    Route("GET", "/v2.0/quotas/{project_id}/details.json", details, "reader"),
]
