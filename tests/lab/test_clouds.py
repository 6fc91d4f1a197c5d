"""clouds.yaml: what is read is what the real client reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.errors import StartupError
from pileus.lab.api import auth_body, endpoints
from pileus.lab.clouds import Access, find

CLOUDS = """
# as people write it
clouds:
  plain:
    auth:
      auth_url: https://one.example:5000/v3   # with a comment
      username: "ann"
      password: 'it''s # no comment'
      project_name: web
      user_domain_name: Default
      project_domain_id: default
    region_name: north
    interface: internal
    cacert: /etc/ssl/one.pem
  old:
    auth: {auth_url: "http://two.example/identity/", username: bob, password: 1234, tenant_name: lab}
    endpoint_type: publicURL
    verify: false
    regions: [south, east]
  credential:
    auth_type: v3applicationcredential
    auth:
      auth_url: http://two.example/identity/v3
      application_credential_id: abc
      application_credential_secret: hush
    compute_endpoint_override: http://elsewhere:8774/v2.1/
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".config" / "openstack"
    folder.mkdir(parents=True)
    (folder / "clouds.yaml").write_text(CLOUDS)
    return tmp_path


def found(home: Path, name: str | None = None, **environ: str) -> Access:
    return find(name, environ, folder=home, home=home)


def test_a_cloud_as_people_write_it(home: Path) -> None:
    plain = found(home, "plain")
    assert (plain.auth_url, plain.region, plain.interface, plain.verify) == (
        "https://one.example:5000/v3",
        "north",
        "internal",
        "/etc/ssl/one.pem",
    )
    assert auth_body(plain) == {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": "ann", "domain": {"name": "Default"}, "password": "it's # no comment"}},
        },
        "scope": {"project": {"name": "web", "domain": {"id": "default"}}},
    }
    assert "it's" not in repr(plain)


def test_older_names_and_other_ways_in(home: Path) -> None:
    old = found(home, OS_CLOUD="old")
    assert (old.auth_url, old.region, old.interface, old.verify) == ("http://two.example/identity/v3", "south", "public", False)
    assert auth_body(old)["scope"] == {"project": {"name": "lab", "domain": {"id": "default"}}}
    assert auth_body(old)["identity"]["password"]["user"]["password"] == "1234"
    credential = found(home, "credential")
    assert auth_body(credential) == {
        "identity": {"methods": ["application_credential"], "application_credential": {"secret": "hush", "id": "abc"}}
    }
    assert credential.overrides == {"compute": "http://elsewhere:8774/v2.1"}


def test_the_real_client_reads_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openstack.config.loader import OpenStackConfig

    for name in ("OS_CLOUD", "OS_AUTH_URL", "OS_CLIENT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    file = str(home / ".config" / "openstack" / "clouds.yaml")
    theirs = OpenStackConfig(config_files=[file], secure_files=[], vendor_files=[], load_envvars=False)
    for name in ("plain", "old"):
        ours, region = found(home, name), theirs.get_one(name)
        assert ours.region == region.region_name
        assert (ours.auth["username"], ours.auth["project_name"]) == (region.auth["username"], region.auth["project_name"])
        assert ours.auth["password"] == str(region.auth["password"])
        assert ours.verify == region.get_requests_verify_args()[0]
        assert ours.interface == region.get_interface("compute").removesuffix("URL")


def test_the_environment_and_secure_yaml(home: Path) -> None:
    env = found(home, OS_AUTH_URL="http://env:5000", OS_USERNAME="eve", OS_PASSWORD="x", OS_PROJECT_NAME="p", OS_REGION_NAME="r")
    assert (env.auth_url, env.region, env.auth["username"]) == ("http://env:5000/v3", "r", "eve")
    assert found(home, OS_AUTH_URL="http://env", OS_TOKEN="t").method == "token"
    secure = home / "secure.json"
    secure.write_text('{"clouds": {"plain": {"auth": {"password": "better"}}}}')
    assert found(home, "plain").auth["password"] == "better"
    assert found(home, "plain").auth["username"] == "ann"
    secure.unlink()
    other = home / "other.yml"
    other.write_text("clouds:\n  only:\n    auth: {auth_url: 'http://x', username: u, password: p}\n")
    assert found(home, OS_CLIENT_CONFIG_FILE=str(other)).name == "only"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (CLOUDS, None, r"which cloud\? .* names several clouds \(plain, old, credential\); say it with --os-cloud NAME"),
        (CLOUDS, "none", "there is no cloud 'none': .* names plain, old, credential"),
        ("clouds:\n\tx: 1\n", None, r"found character '.t' that cannot start any token"),
        ("clouds:\n  a:\n    auth: {auth_url: http://x, username: u}\n", None, "cloud a: password is missing"),
        ("clouds:\n  a:\n    auth: {auth_url: http://x}\n", None, "cloud a: username and password are missing"),
        ("clouds:\n  a:\n    auth: {username: u}\n", None, "cloud a: auth_url is missing"),
        ("clouds:\n  a:\n    profile: rackspace\n", None, "vendor profiles are not read here"),
        ("clouds:\n  a:\n    auth_type: v3kerberos\n    auth: {auth_url: http://x}\n", None, "auth_type 'v3kerberos' is not known here"),
        ("clouds:\n  a:\n    auth: {auth_url: 'x:99999/v3', username: u, password: p}\n", None, "auth_url 'x:99999/v3' is no URL"),
        ("clouds:\n  a:\n    auth: {auth_url: 'http://x:99999/v3', username: u, password: p}\n", None, "is no URL"),
        ("clouds: 7\n", None, "`clouds` is no table"),
        ("clouds: {a: 7}\n", None, "the cloud 'a' is no table"),
        ("", None, "no clouds.yaml and no OS_AUTH_URL was found"),
    ],
)
def test_what_is_wrong_is_said(home: Path, text: str, name: str | None, said: str) -> None:
    (home / "clouds.yaml").write_text(text)
    with pytest.raises(StartupError, match=said) as caught:
        found(home, name)
    assert "\n" not in str(caught.value)


def test_endpoints_are_of_the_region_and_interface() -> None:
    def endpoint(interface: str, region: str, url: str) -> dict[str, str]:
        return {"interface": interface, "region": region, "region_id": region, "url": url}

    catalogue = [
        {
            "type": "compute",
            "endpoints": [endpoint("public", "s", "http://s/v2.1/%(tenant_id)s/"), endpoint("public", "n", "http://n/v2.1")],
        },
        {"type": "network", "endpoints": [endpoint("internal", "s", "http://in:9696"), endpoint("public", "s", "http://s:9696/")]},
        {"type": "image", "endpoints": [endpoint("public", "s", "http://s:9292/v2")]},
    ]
    access = Access("x", "password", {}, region="s")
    assert endpoints(access, catalogue, "p1") == {
        "compute": "http://s/v2.1/p1",
        "network": "http://s:9696/v2.0",
        "image": "http://s:9292/v2",
    }
