"""Bootstrap, what other services ask, remembered grants, settings, upkeep."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import func, select, update

from pileus import settings as tree
from pileus.errors import StartupError, Unauthorized, Unavailable
from pileus.identity import grants, keys, service, users
from pileus.identity.service import Identity
from pileus.identity.tables import assignments, revocations
from pileus.identity.tables import keys as table_of_keys
from pileus.settings import Settings
from pileus.store import Tx
from pileus.store.sqlite import SqliteStore
from tests.identity.conftest import ADMIN_PASSWORD, BASE, Cloud
from tests.identity.test_keys import write_files


def count(tx: Tx, table: Any) -> int:
    return tx.execute(select(func.count()).select_from(table)).scalar_one()


async def test_bootstrap_again_mends_what_is_missing_and_keeps_the_password(cloud: Cloud) -> None:
    assert cloud.boot.made_admin
    again = await cloud.identity.bootstrap("another password")
    assert again == dataclasses.replace(cloud.boot, made_admin=False)
    assert (await cloud.login({"id": cloud.boot.admin_id, "password": ADMIN_PASSWORD})).status_code == 201
    assert await cloud.identity.read(count, assignments) == 2
    role = f"/v3/projects/{cloud.boot.admin_project_id}/users/{cloud.boot.admin_id}/roles/{await cloud.role('admin')}"
    assert (await cloud.http.delete(role, headers=cloud.headers)).status_code == 204
    assert (await cloud.http.get("/v3/users", headers=cloud.headers)).status_code == 401
    await cloud.identity.bootstrap("x")
    assert (await cloud.http.get("/v3/users", headers=cloud.headers)).status_code == 200
    await cloud.identity.write(users.remove, cloud.boot.admin_id)
    new = await cloud.identity.bootstrap("brand new")
    assert new.made_admin
    assert (await cloud.login({"id": new.admin_id, "password": "brand new"})).status_code == 201


async def test_what_the_other_services_ask(cloud: Cloud) -> None:
    identity = cloud.identity
    token = await identity.service_token()
    assert await identity.service_token() == token
    context = await identity.authenticate(token)
    assert (context.user_name, context.project_name, set(context.roles)) == ("pileus", "service", {"service"})
    assert not context.is_admin
    admin = await identity.authenticate(cloud.headers["X-Auth-Token"])
    assert (admin.user_name, admin.project_id, admin.is_admin) == ("admin", cloud.boot.admin_project_id, True)
    assert admin.expires_at > cloud.clock()
    with pytest.raises(Unauthorized):
        await identity.authenticate("nonsense")


async def test_the_service_token_is_renewed_long_before_its_end(cloud: Cloud) -> None:
    token = await cloud.identity.service_token()
    cloud.clock.passed = cloud.identity.lifetime * 0.4
    assert await cloud.identity.service_token() == token
    cloud.clock.passed = cloud.identity.lifetime * 0.6
    fresh = await cloud.identity.service_token()
    assert fresh != token
    assert (await cloud.identity.authenticate(token)).user_name == "pileus"


async def test_before_bootstrap_there_is_no_service_token(store: SqliteStore, tmp_path: Path) -> None:
    identity = Identity(store, Settings(), tmp_path / "keys", BASE)
    await identity.start()
    with pytest.raises(Unavailable, match="not been set up"):
        await identity.service_token()
    await identity.close()


async def test_settings_have_their_effect(store: SqliteStore, tmp_path: Path) -> None:
    now = 1_000_000.0
    chosen = Settings(identity=tree.Identity(token_lifetime=60, key_rotation=120))
    identity = Identity(store, chosen, tmp_path / "keys", BASE, now=lambda: now)
    await identity.start()
    await identity.bootstrap("x")
    token = await identity.service_token()
    now += 59
    await identity.authenticate(token)
    now += 2
    with pytest.raises(Unauthorized):
        await identity.authenticate(token)
    await identity.close()
    now += 60
    identity = Identity(store, chosen, tmp_path / "keys", BASE, now=lambda: now)
    await identity.start()
    assert [row["signs_from"] for row in await store.read(keys.kept)] == [1_000_000.0, 1_000_121.0 + 60.0]
    await identity.close()


async def test_a_token_lives_through_a_restart(cloud: Cloud, store: SqliteStore) -> None:
    again = Identity(store, Settings(), cloud.keys_folder, BASE)
    await again.start()
    assert (await again.authenticate(cloud.headers["X-Auth-Token"])).user_id == cloud.boot.admin_id
    await again.close()


async def test_a_token_of_a_state_folder_with_key_files_is_good_and_the_files_go(store: SqliteStore, tmp_path: Path) -> None:
    (signs,) = write_files(tmp_path / "keys", 1000)
    identity = Identity(store, Settings(), tmp_path / "keys", BASE)
    await identity.start()
    await identity.bootstrap("x")
    assert not (tmp_path / "keys").exists()
    assert signs.decrypt(await identity.service_token() + "==")
    await identity.close()


async def test_keys_that_cannot_be_read_stop_the_start(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "1.key").write_text("nonsense")
    identity = Identity(store, Settings(), tmp_path / "keys", BASE)
    with pytest.raises(StartupError):
        await identity.start()
    await identity.close()


class Counting:
    """How often the tables were asked."""

    def __init__(self, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        original = identity._store.read

        async def read(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.reads += 1
            return await original(fn, *args, **kwargs)

        monkeypatch.setattr(identity._store, "read", read)


async def test_a_good_token_is_remembered_for_a_while_and_until_anything_changes(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    token = cloud.headers["X-Auth-Token"]
    await cloud.identity.authenticate(token)
    asked = Counting(cloud.identity, monkeypatch)
    for _ in range(5):
        await cloud.identity.authenticate(token)
    assert asked.reads == 0
    cloud.clock.passed += service.FRESH + 0.1
    await cloud.identity.authenticate(token)
    await cloud.identity.authenticate(token)
    assert asked.reads == 1
    await cloud.make("role", name="new")
    await cloud.identity.authenticate(token)
    assert asked.reads == 2
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await cloud.identity.authenticate("nonsense")
    assert asked.reads == 3  # nor do strangers cost the database anything but one look whether there are other keys by now


async def another(cloud: Cloud, store: SqliteStore, base: str = BASE) -> Identity:
    """One more process on the same database."""
    identity = Identity(store, Settings(), cloud.keys_folder, base, now=cloud.clock)
    await identity.start()
    return identity


async def test_a_token_of_a_key_that_is_new_here_is_good_at_once_and_strangers_cost_one_reading(
    cloud: Cloud, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cloud.identity.write(renew)
    other = await another(cloud, store)
    token = await other.service_token()
    await other.close()
    asked = Counting(cloud.identity, monkeypatch)
    with pytest.raises(Unauthorized):
        await cloud.identity.authenticate(token)
    assert asked.reads == 0  # they were read when the cloud started, just now
    cloud.clock.passed += service.READ_APART + 0.1
    assert await asyncio.gather(*[cloud.identity.authenticate(token) for _ in range(5)])
    assert asked.reads == 1 + 5  # the keys once, and each request its grant
    for passed, reads in ((0.0, 6), (service.READ_APART + 0.1, 7), (0.0, 7)):
        cloud.clock.passed += passed
        answers = await asyncio.gather(*[cloud.identity.authenticate("nonsense") for _ in range(9)], return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unauthorized}
        assert asked.reads == reads


def renew(tx: Tx) -> None:
    """Another key than the one that was read."""
    tx.execute(update(table_of_keys).values(secret=Fernet.generate_key().decode()))


@pytest.mark.parametrize("how", ["revoked", "disabled", "role", "password", "deleted"])
async def test_what_one_process_ends_all_others_refuse_in_time(cloud: Cloud, store: SqliteStore, how: str) -> None:
    user, project = await cloud.member()
    token = (await cloud.headers_of(user["id"], "wonderland", project["id"]))["X-Auth-Token"]
    others = [await another(cloud, store) for _ in range(2)]
    for other in others:
        assert (await other.authenticate(token)).user_id == user["id"]
    role = f"/v3/projects/{project['id']}/users/{user['id']}/roles/{await cloud.role('member')}"
    end = {
        "revoked": ("DELETE", "/v3/auth/tokens", {"X-Subject-Token": token}, None),
        "disabled": ("PATCH", f"/v3/users/{user['id']}", {}, {"user": {"enabled": False}}),
        "role": ("DELETE", role, {}, None),
        "password": ("PATCH", f"/v3/users/{user['id']}", {}, {"user": {"password": "new"}}),
        "deleted": ("DELETE", f"/v3/users/{user['id']}", {}, None),
    }
    method, path, headers, body = end[how]
    assert (await cloud.http.request(method, path, headers={**cloud.headers, **headers}, json=body)).is_success
    with pytest.raises(Unauthorized):
        await cloud.identity.authenticate(token)
    cloud.clock.passed += service.FRESH
    for other in others:
        with pytest.raises(Unauthorized):
            await other.authenticate(token)
        await other.close()


async def test_what_was_read_before_a_write_is_not_remembered_after_it(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow read that began before a revocation and ends after it must not bring the token back."""
    token = cloud.headers["X-Auth-Token"]
    grant = await cloud.identity.validate(token)
    cloud.identity._grants.clear()
    original = cloud.identity._store.read
    has_read, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        found = await original(fn, *args, **kwargs)
        has_read.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(cloud.identity._store, "read", slow)
    racing = asyncio.create_task(cloud.identity.authenticate(token))
    await has_read.wait()
    await cloud.identity.write(grants.revoke, grant.claims)
    may_go_on.set()
    await racing
    with pytest.raises(Unauthorized):
        await cloud.identity.authenticate(token)


async def test_only_so_many_are_remembered(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CACHED", 3)
    for _ in range(6):
        cloud.identity._service_token = None
        await cloud.identity.authenticate(await cloud.identity.service_token())
    assert len(cloud.identity._grants) == 3


async def test_revocations_are_forgotten_when_their_tokens_are_over(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    headers = await cloud.headers_of(user["id"], "wonderland")
    await cloud.http.delete("/v3/auth/tokens", headers={**headers, "X-Subject-Token": headers["X-Auth-Token"]})
    await cloud.identity.write(grants.purge, cloud.clock())
    assert await cloud.identity.read(count, revocations) == 1
    await cloud.identity.write(grants.purge, cloud.clock() + cloud.identity.lifetime + 1)
    assert await cloud.identity.read(count, revocations) == 0


async def test_upkeep_turns_keys_and_purges_by_itself_and_survives_a_failure(
    cloud: Cloud, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four turns: nothing to do, the database is away, a key is due, and the hour of the purge is over."""
    turns: list[float] = []
    enough = asyncio.Event()
    read = store.read

    async def away(*args: Any) -> Any:
        raise Unavailable("away")

    async def sleep(seconds: float) -> None:
        turns.append(seconds)
        monkeypatch.setattr(store, "read", away if len(turns) == 1 else read)
        if len(turns) == 2:
            cloud.clock.passed = Settings().identity.key_rotation
        elif len(turns) == 3:
            await store.write(grants.revoke, claims)
            cloud.clock.passed += 2 * cloud.identity.lifetime
        elif len(turns) == 4:
            enough.set()
            await asyncio.Event().wait()

    claims = (await cloud.identity.validate(cloud.headers["X-Auth-Token"])).claims
    monkeypatch.setattr(asyncio, "sleep", sleep)
    identity = await another(cloud, store)
    async with asyncio.timeout(10):
        await enough.wait()
    monkeypatch.undo()
    assert turns == [keys.STAGED / keys.READS] * 4
    assert [row["number"] for row in await store.read(keys.kept)] == [2, 3]  # of the first no token lives
    assert await store.read(count, revocations) == 0
    await identity.close()
    assert identity._upkeep is not None and identity._upkeep.done()
