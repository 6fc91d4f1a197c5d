"""What a login and a token's validation execute is served by an index, on a PostgreSQL with many users and projects."""

from __future__ import annotations

from pathlib import Path

import httpx
from sqlalchemy import text

from pileus.http.face import Limits
from pileus.identity.api.face import face
from pileus.identity.service import Identity
from pileus.identity.tables import assignments, projects, revocations, users
from pileus.settings import Database, Settings
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore
from tests.engines.explain import copies, read_whole, recorded
from tests.engines.postgresql import PostgresServer
from tests.identity.conftest import ADMIN_PASSWORD, BASE, MAX_BODY

BIG = ("identity_users", "identity_projects", "identity_assignments", "identity_revocations")


def _fill(tx: Tx) -> None:
    """Twenty thousand users, each with a role in a project, and tokens that were revoked."""
    copies(tx, projects, 20_000, id="'p' || i", name="'p' || i")
    copies(tx, users, 20_000, id="'u' || i", name="'u' || i")
    copies(tx, assignments, 20_000, user_id="'u' || i", scope_id="'p' || i")
    copies(tx, revocations, 20_000, audit_id="'a' || i")
    tx.execute(text("analyze"))


async def test_no_hot_statement_reads_a_big_table_whole(postgres: PostgresServer, tmp_path: Path) -> None:
    store = await PostgresStore.open(Database(url=await postgres.fresh(), max_pool_size=1), role="test")
    identity = Identity(store, Settings(), tmp_path / "keys", BASE)
    try:
        await identity.start()
        await identity.bootstrap(ADMIN_PASSWORD)
        user = {"name": "admin", "domain": {"id": "default"}, "password": ADMIN_PASSWORD}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        login = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        app = face(identity, Limits(max_body=MAX_BODY, max_limit=100))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
            old = (await http.post("/v3/auth/tokens", json=login)).headers["X-Subject-Token"]
            assert (await http.delete("/v3/auth/tokens", headers={"X-Auth-Token": old, "X-Subject-Token": old})).status_code == 204
            await store.write(_fill)
            with recorded() as seen:
                answer = await http.post("/v3/auth/tokens", json=login)
                assert answer.status_code == 201, answer.text
                token = answer.headers["X-Subject-Token"]
                mine = {"X-Auth-Token": token, "X-Subject-Token": token}
                assert (await http.get("/v3/auth/tokens", headers=mine)).status_code == 200
                identity._grants.clear()
                assert (await identity.authenticate(token)).is_admin
                await identity.service_token()
                assert (await http.get("/v3/auth/projects", headers=mine)).status_code == 200
                assert (await http.delete("/v3/auth/tokens", headers=mine)).status_code == 204
        found = await store.write(read_whole, seen, BIG)
    finally:
        await identity.close()
        await store.close()
    assert len(seen) > 5
    assert not found, "\n\n".join(found)
