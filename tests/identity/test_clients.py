"""OpenStack's own clients against the service on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openstack
import openstack.exceptions
import pytest
from keystoneauth1 import exceptions as ks
from keystoneauth1 import session
from keystoneauth1.identity import v3
from starlette.types import ASGIApp

from pileus.http.face import Limits
from pileus.http.mount import mount
from pileus.identity.api.face import face
from pileus.identity.service import Identity
from pileus.settings import Settings
from pileus.store.sqlite import SqliteStore
from tests.serving import served

PASSWORD = "correct horse"


@pytest.fixture
async def url(store: SqliteStore, tmp_path: Path) -> AsyncIterator[str]:
    """The identity service under uvicorn: its URL."""
    made: list[Identity] = []

    def app(base: str) -> ASGIApp:
        made.append(Identity(store, Settings(), tmp_path / "keys", base))
        return mount({"/identity": face(made[0], Limits(max_limit=4))})

    async with served(app) as base:
        await made[0].start()
        await made[0].bootstrap(PASSWORD)
        yield f"{base}/identity"
    await made[0].close()


def credentials(url: str, username: str, password: str, project: str | None) -> dict[str, Any]:
    scope = {"project_name": project, "project_domain_name": "Default"} if project is not None else {}
    return {"auth_url": url, "username": username, "password": password, "user_domain_name": "Default", **scope}


def connect(url: str, username: str = "admin", password: str = PASSWORD, project: str | None = "admin") -> Any:
    return openstack.connect(
        auth=credentials(url, username, password, project), region_name="RegionOne", load_envvars=False, load_yaml_config=False
    )


async def test_openstacksdk(url: str) -> None:
    await asyncio.to_thread(drive, url)


def drive(url: str) -> None:
    with contextlib.closing(connect(url)) as cloud:
        cloud.authorize()
        assert cloud.session.get_endpoint(service_type="network") == url.replace("/identity", "/network")
        assert cloud.session.get_endpoint(service_type="compute", interface="internal").endswith("/compute/v2.1")
        identity = cloud.identity
        project = identity.create_project(name="demo", description="for a demo", domain_id="default")
        user = identity.create_user(name="bob", password="builder", default_project_id=project.id, email="bob@example.org")
        assert identity.find_user("bob").email == "bob@example.org"
        member = identity.find_role("member")
        identity.assign_project_role_to_user(project, user, member)
        assert identity.validate_user_has_project_role(project, user, member)
        assert [each.role["id"] for each in identity.role_assignments(user_id=user.id)] == [member.id]
        assert [each.role["name"] for each in cloud.list_role_assignments({"user": user.id, "include_names": True})] == ["member"]
        assert {each.name for each in identity.projects()} == {"admin", "service", "demo"}
        made = [identity.create_role(name=f"extra {n}") for n in range(5)]
        assert len(list(identity.roles())) == 9  # through three pages
        for role in made:
            identity.delete_role(role)
        assert {each.type for each in identity.services()} == {"identity", "image", "placement", "compute", "network"}
        assert len(list(identity.endpoints())) == 15
        assert [each.id for each in identity.regions()] == ["RegionOne"]
        identity.update_project(project, description="changed")
        assert identity.get_project(project.id).description == "changed"
        domain = identity.create_domain(name="home")
        identity.update_domain(domain, is_enabled=False)
        identity.delete_domain(domain)

        with contextlib.closing(connect(url, "bob", "builder", "demo")) as bob:
            assert bob.current_user_id == user.id
            assert bob.current_project_id == project.id
            assert [each.name for each in bob.identity.user_projects(user)] == ["demo"]
            with pytest.raises(openstack.exceptions.ForbiddenException):
                list(bob.identity.users())
            with pytest.raises(openstack.exceptions.ForbiddenException):
                bob.identity.delete_project(project)
            identity.update_user(user, password="fixer")
            with pytest.raises(ks.Unauthorized):  # its token has ended, and its password is wrong now
                bob.identity.get_user(user.id)
        identity.unassign_project_role_from_user(project, user, member)
        identity.delete_user(user)
        identity.delete_project(project)
        assert identity.find_user("bob") is None
        with pytest.raises(openstack.exceptions.ConflictException):
            identity.create_user(name="admin", domain_id="default")


async def test_keystoneauth(url: str) -> None:
    def work() -> None:
        unscoped = v3.Password(**credentials(url, "admin", PASSWORD, None), unscoped=True)
        first = unscoped.get_access(session.Session())
        token = str(first.auth_token)
        scoped = v3.Token(url, token, project_name="admin", project_domain_id="default")
        rescoped = session.Session(auth=scoped)
        access = scoped.get_access(rescoped)
        assert access.project_name == "admin" and access.project_scoped
        assert set(access.role_names or ()) == {"admin", "member", "reader"}
        assert access.expires == first.expires
        assert access.audit_chain_id == first.audit_id
        assert (
            rescoped.get("/v3/auth/tokens", endpoint_filter={"service_type": "identity"}, headers={"X-Subject-Token": token}).status_code
            == 200
        )
        with pytest.raises(ks.Unauthorized):
            session.Session(auth=v3.Password(**credentials(url, "admin", "wrong", "admin"))).get_token()
        with pytest.raises(ks.Unauthorized):
            session.Session(auth=v3.Password(**credentials(url, "admin", PASSWORD, "nothing"))).get_token()

    await asyncio.to_thread(work)


async def test_the_openstack_command(url: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    given = {f"OS_{key.upper()}": str(value) for key, value in credentials(url, "admin", PASSWORD, "admin").items()}

    async def run(*arguments: str) -> Any:
        program = Path(sys.executable).parent / "openstack"
        process = await asyncio.create_subprocess_exec(
            program, *arguments, "-f", "json", env=clean | given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    catalog, project = await asyncio.gather(run("catalog", "list"), run("project", "create", "demo", "--property", "colour=blue"))
    assert {each["Type"] for each in catalog} == {"identity", "image", "placement", "compute", "network"}
    user = await run("user", "create", "bob", "--project", "demo", "--password", "builder")
    assert user["default_project_id"] == project["id"]
    found = await run("role", "assignment", "list", "--names", "--effective", "--user", "admin", "--project", "admin")
    assert {each["Role"] for each in found} == {"admin", "member", "reader"}
