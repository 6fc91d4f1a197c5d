"""POST /servers/{id}/action: one table of the actions that are offered; any other is refused as Nova refuses an unknown one."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from pileus.bus import NoAnswer, RemoteError
from pileus.compute import servers
from pileus.compute.api import forms, server_security_groups
from pileus.compute.evacuation import Wish
from pileus.compute.service import Compute
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound
from pileus.http.face import Call, Reply, Route
from pileus.messages import ConsoleRequest, ConsoleText, console_subject

CONSOLE_LIMIT = 10.0
"""Seconds that a host may take to hand out a console's text."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f]")


class Reboot(forms.Body):
    type: Literal["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]


class Lock(forms.Body):
    locked_reason: str | None = None


class ResetState(forms.Body):
    state: Literal["active", "error"]


class ConsoleOutput(forms.Body):
    length: forms.Whole | None = None


class Evacuate(forms.Body):
    host: str | UnsetType | None = UNSET
    admin_pass: str | UnsetType = msgspec.field(default=UNSET, name="adminPass")
    on_shared_storage: forms.Flag | UnsetType = msgspec.field(default=UNSET, name="onSharedStorage")
    force: forms.Flag | UnsetType = UNSET


Action = Callable[[Compute, Call, Any], Awaitable[Reply]]


async def take_action(compute: Compute, call: Call) -> Reply:
    body = await call.json(dict[str, Any])
    if len(body) != 1:
        raise BadRequest("Malformed request body: expected one action and its arguments")
    name, argument = next(iter(body.items()))
    action = ACTIONS.get(name)
    if action is None:
        raise BadRequest(f"There is no such action: {name}")
    return await action(compute, call, argument)


def _plain(verb: str) -> Action:
    """A verb without arguments (Nova takes anything there, and so do we)."""

    async def action(compute: Compute, call: Call, argument: Any) -> Reply:
        await compute.act(call.context, call.path["id"], verb)
        return Reply(202)

    return action


async def reboot(compute: Compute, call: Call, argument: Any) -> Reply:
    hard = _convert(argument, Reboot, "reboot").type.upper() == "HARD"
    await compute.act(call.context, call.path["id"], "reboot_hard" if hard else "reboot", hard=hard)
    return Reply(202)


async def lock(compute: Compute, call: Call, argument: Any) -> Reply:
    reason = None
    if call.since(2, 73) and argument is not None:
        reason = _convert(argument, Lock, "lock").locked_reason
        if reason is not None and not 1 <= len(reason) <= 255:
            raise forms.invalid("locked_reason", reason, "expected 1 to 255 characters")
    await compute.store.write(servers.lock, call.context, call.path["id"], reason)
    return Reply(202)


async def unlock(compute: Compute, call: Call, argument: Any) -> Reply:
    await compute.store.write(servers.unlock, call.context, call.path["id"])
    return Reply(202)


async def reset_state(compute: Compute, call: Call, argument: Any) -> Reply:
    if not call.context.is_admin:
        raise Forbidden("Policy doesn't allow os-resetState: it needs the admin role.")
    state = _convert(argument, ResetState, "os-resetState").state
    await compute.store.write(servers.reset_state, call.context, call.path["id"], state)
    return Reply(202)


async def evacuate(compute: Compute, call: Call, argument: Any) -> Reply:
    """2.14 drops onSharedStorage, 2.29 to 2.67 have force, from 2.95 on the server is left stopped."""
    if not call.context.is_admin:
        raise Forbidden("Policy doesn't allow os_compute_api:os-evacuate: it needs the admin role.")
    given = _convert(argument, Evacuate, "evacuate")
    if given.admin_pass is not UNSET:
        raise BadRequest("adminPass: setting a guest's password is not offered")
    if (given.on_shared_storage is UNSET) != call.since(2, 14):
        word = "not known any more since 2.14" if call.since(2, 14) else "required before 2.14"
        raise BadRequest(f"Invalid input for field/attribute evacuate: onSharedStorage is {word}")
    if given.on_shared_storage is not UNSET and forms.flag(given.on_shared_storage, "onSharedStorage"):
        raise BadRequest("onSharedStorage: guests' disks are on their hosts, so there is no shared storage")
    if given.force is not UNSET and not (call.since(2, 29) and not call.since(2, 68)):
        raise BadRequest("Invalid input for field/attribute evacuate: force is known from 2.29 to 2.67 only")
    force = given.force is not UNSET and forms.flag(given.force, "force")
    host = None if given.host is UNSET or given.host is None else forms.name(given.host, "host")
    if force and host is None:
        raise BadRequest("Can't force to a non-provided destination")
    await compute.evacuate(call.context, call.path["id"], Wish(host, force, leave_stopped=call.since(2, 95)))
    return Reply(200)


async def console_output(compute: Compute, call: Call, argument: Any) -> Reply:
    length = _convert(argument, ConsoleOutput, "os-getConsoleOutput").length
    lines = None if length is None else forms.whole(length, "length", -1)
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    if row["host"] is None:
        raise Conflict(f"Instance {row['id']} is not ready")
    request = ConsoleRequest(row["id"], None if lines == -1 else lines)
    try:
        answer = await compute.bus.request(console_subject(row["host"]), request, ConsoleText, timeout=CONSOLE_LIMIT)
    except NoAnswer:
        raise Conflict(f"Instance {row['id']} is not ready: its host does not answer; try again") from None
    except RemoteError as error:
        raise NotFound(f"Guest does not have a console available: {error}") from None
    return Reply(body={"output": _CONTROL.sub("", answer.text)})


def _convert(argument: Any, kind: type[Any], where: str) -> Any:
    try:
        return msgspec.convert(argument, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for field/attribute {where}: {error}") from None


ACTIONS: dict[str, Action] = {
    "os-start": _plain("start"),
    "os-stop": _plain("stop"),
    "pause": _plain("pause"),
    "unpause": _plain("unpause"),
    "reboot": reboot,
    "lock": lock,
    "unlock": unlock,
    "os-resetState": reset_state,
    "os-getConsoleOutput": console_output,
    "evacuate": evacuate,
    "addSecurityGroup": server_security_groups.add,
    "removeSecurityGroup": server_security_groups.remove,
}

ROUTES = [Route("POST", "/v2.1/servers/{id}/action", take_action, "member")]
