"""What is wrong is refused, with the status and in the words that OpenStack's users know, and leaves nothing behind."""

from __future__ import annotations

import base64
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blackbox.cloud import Cloud, Person, fresh, running

NOBODY = "00000000-0000-4000-8000-000000000001"


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, (answer.status_code, answer.text)
    for word in words:
        assert word in answer.text, answer.text


def boot(person: Person, version: str = "2.37", **more: Any) -> httpx.Response:
    body = {"name": "s", "flavorRef": "1", "networks": "none", **more}
    return person.call("POST", "compute", "/v2.1/servers", {"server": body}, version=version)


def act(person: Person, server_id: str, action: str, argument: Any = None) -> httpx.Response:
    return person.call("POST", "compute", f"/v2.1/servers/{server_id}/action", {action: argument})


def subnet(person: Person, network_id: str, cidr: str, **more: Any) -> httpx.Response:
    body = {"network_id": network_id, "cidr": cidr, "ip_version": 4, **more}
    return person.call("POST", "network", "/v2.0/subnets", {"subnet": body})


def port(person: Person, network_id: str, **more: Any) -> httpx.Response:
    return person.call("POST", "network", "/v2.0/ports", {"port": {"network_id": network_id, **more}})


@pytest.fixture
def network(member: Person) -> Iterator[dict[str, Any]]:
    """A member's network of 10.60.0.0/24, with all that is on it removed at the end."""
    made = member.network("10.60.0.0/24")
    yield made
    for found in member.get("network", "/v2.0/ports", params={"network_id": made["id"]})["ports"]:
        if found["device_owner"] == "":
            member.delete("network", f"/v2.0/ports/{found['id']}")
    member.delete("network", f"/v2.0/networks/{made['id']}")


@pytest.fixture(scope="module")
def server(member: Person) -> Iterator[str]:
    made = member.server()["id"]
    yield made
    member.gone(made)


# Networks


def test_subnets_of_one_network_do_not_overlap(member: Person, network: dict[str, Any]) -> None:
    for cidr in ("10.60.0.0/24", "10.60.0.128/25", "10.0.0.0/8"):
        refused(subnet(member, network["id"], cidr), 400, "overlap")
    assert subnet(member, network["id"], "10.60.1.0/24").status_code == 201
    other = member.network("10.60.0.0/24")
    member.delete("network", f"/v2.0/networks/{other['id']}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"cidr": "nonsense"},
        {"cidr": "10.61.0.0/33"},
        {"cidr": "224.0.0.0/24"},
        {"cidr": "10.61.0.0/24", "ip_version": 6},
        {"cidr": "10.61.0.0/24", "gateway_ip": "10.62.0.1"},
        {"cidr": "10.61.0.0/24", "allocation_pools": [{"start": "10.61.0.9", "end": "10.61.0.5"}]},
        {"cidr": "10.61.0.0/24", "allocation_pools": [{"start": "10.61.0.9", "end": "10.61.1.5"}]},
        {"cidr": "10.61.0.0/24", "allocation_pools": [{"start": "10.61.0.5", "end": "10.61.0.9"}] * 2},
        {"cidr": "10.61.0.0/24", "dns_nameservers": ["nobody"]},
        {"cidr": "10.61.0.0/24", "dns_nameservers": ["9.9.9.9"] * 6},
        {"cidr": "10.61.0.0/24", "host_routes": [{"destination": "x", "nexthop": "10.61.0.1"}]},
        {"cidr": "10.61.0.0/24", "colour": "red"},
    ],
)  # fmt: skip
def test_subnets_that_make_no_sense(member: Person, network: dict[str, Any], wrong: dict[str, Any]) -> None:
    cidr = wrong.pop("cidr")
    try:
        answer = subnet(member, network["id"], cidr, **wrong)
        assert answer.status_code in (400, 409), answer.text
        assert answer.json()["NeutronError"]["message"]
    finally:
        wrong["cidr"] = cidr


def test_a_pool_runs_out(member: Person, network: dict[str, Any]) -> None:
    pool = {"allocation_pools": [{"start": "10.63.0.4", "end": "10.63.0.5"}], "enable_dhcp": False}
    second = subnet(member, network["id"], "10.63.0.0/24", **pool).json()["subnet"]["id"]
    wish = [{"subnet_id": second}]
    given = [port(member, network["id"], fixed_ips=wish) for _ in range(3)]
    assert [answer.status_code for answer in given] == [201, 201, 409]
    assert given[2].json()["NeutronError"]["type"] == "IpAddressGenerationFailureForSubnet"
    assert {answer.json()["port"]["fixed_ips"][0]["ip_address"] for answer in given[:2]} == {"10.63.0.4", "10.63.0.5"}
    member.delete("network", f"/v2.0/ports/{given[0].json()['port']['id']}")
    assert port(member, network["id"], fixed_ips=wish).status_code == 201


def test_a_server_whose_network_has_no_address_left(member: Person) -> None:
    made = member.network(None)
    pool = [{"start": "10.64.0.4", "end": "10.64.0.4"}]
    assert subnet(member, made["id"], "10.64.0.0/24", allocation_pools=pool, enable_dhcp=False).status_code == 201
    holder = port(member, made["id"]).json()["port"]["id"]
    answer = boot(member, networks=[{"uuid": made["id"]}])
    if answer.status_code == 202:
        shown = member.settled(answer.json()["server"]["id"])
        assert shown["status"] == "ERROR" and "No more IP addresses" in shown["fault"]["message"]
        member.gone(shown["id"])
    else:
        refused(answer, 400, "No more IP addresses")
    assert member.get("network", "/v2.0/ports", params={"network_id": made["id"], "fields": "id"})["ports"] == [{"id": holder}]
    member.delete("network", f"/v2.0/ports/{holder}")
    member.delete("network", f"/v2.0/networks/{made['id']}")


def test_addresses_are_given_once(member: Person, network: dict[str, Any]) -> None:
    wish: dict[str, Any] = {"fixed_ips": [{"ip_address": "10.60.0.9"}], "mac_address": "02:00:00:60:00:09"}
    assert port(member, network["id"], **wish).status_code == 201
    again = port(member, network["id"], fixed_ips=wish["fixed_ips"])
    refused(again, 409, "IpAddressAlreadyAllocated")
    refused(port(member, network["id"], mac_address=wish["mac_address"]), 409, "MacAddressInUse")
    for address in ("10.61.0.9", "10.60.0.0", "10.60.0.255", "nonsense", "::1"):
        assert port(member, network["id"], fixed_ips=[{"ip_address": address}]).status_code == 400, address
    refused(boot(member, networks=[{"uuid": network["id"], "fixed_ip": "10.60.0.9"}]), 400, "10.60.0.9")
    refused(boot(member, networks=[{"uuid": network["id"], "fixed_ip": "10.61.0.9"}]), 400, "10.61.0.9")


def test_what_is_in_use_stays(member: Person, network: dict[str, Any]) -> None:
    held = port(member, network["id"]).json()["port"]
    refused(member.call("DELETE", "network", f"/v2.0/networks/{network['id']}"), 409, "NetworkInUse")
    refused(member.call("DELETE", "network", f"/v2.0/subnets/{held['fixed_ips'][0]['subnet_id']}"), 409, "SubnetInUse")
    made = member.server(networks=[{"port": held["id"]}])["id"]
    refused(boot(member, networks=[{"port": held["id"]}]), 409, "in use")
    refused(boot(member, networks=[{"port": held["id"]}], max_count=2), 400)
    member.gone(made)


@pytest.mark.parametrize(
    "wrong", [{"name": "x" * 256}, {"mtu": "wide"}, {"mtu": 1}, {"admin_state_up": "maybe"}, {"colour": 1}, {"id": NOBODY}]
)
def test_networks_that_make_no_sense(member: Person, wrong: dict[str, Any]) -> None:
    refused(member.call("POST", "network", "/v2.0/networks", {"network": wrong}), 400, next(iter(wrong)))


def test_what_only_an_admin_may_say_of_a_network(member: Person, admin: Person) -> None:
    vlan = {"provider:network_type": "vlan", "provider:physical_network": "simulated", "provider:segmentation_id": 78}
    for key, value in (vlan | {"shared": True}).items():
        refused(member.call("POST", "network", "/v2.0/networks", {"network": {key: value}}), 403, key)
    refused(admin.call("POST", "network", "/v2.0/networks", {"network": vlan | {"provider:physical_network": "nowhere"}}), 400, "nowhere")
    refused(admin.call("POST", "network", "/v2.0/networks", {"network": vlan | {"provider:segmentation_id": 4095}}), 400, "4094")
    refused(admin.call("POST", "network", "/v2.0/networks", {"network": {"provider:network_type": "gre"}}), 400, "gre")


# Quotas


def test_compute_quotas(admin: Person, member: Person) -> None:
    def allow(**limits: int) -> None:
        admin.ask("PUT", "compute", f"/v2.1/os-quota-sets/{member.project_id}", {"quota_set": {**limits, "force": True}})

    held = member.server()["id"]
    used = admin.get("compute", f"/v2.1/os-quota-sets/{member.project_id}/detail")["quota_set"]["instances"]["in_use"]
    try:
        for name, limit, flavor in (("instances", used, "1"), ("cores", used, "1"), ("ram", 128 * used, "1")):
            allow(**{name: limit})
            refused(boot(member, flavorRef=flavor), 403, "Quota exceeded for", name)
            refused(boot(member, flavorRef=flavor, min_count=2, max_count=3), 403)
            allow(**{name: -1})
        below = {"quota_set": {"instances": used - 1}}
        refused(admin.call("PUT", "compute", f"/v2.1/os-quota-sets/{member.project_id}", below), 400, "already used")
        allow(instances=used + 2)
        many = boot(member, name=fresh("many"), min_count=1, max_count=9).json()["server"]["id"]
        name = member.settled(many)["name"].rsplit("-", 1)[0]
        made = [row["id"] for row in member.get("compute", "/v2.1/servers", params={"name": name})["servers"]]
        assert len(made) == 2, "as many as the quota leaves room for"
        member.gone(*made)
        allow(key_pairs=0, metadata_items=1)
        refused(member.call("POST", "compute", "/v2.1/os-keypairs", {"keypair": {"name": "k"}}), 403, "Quota exceeded")
        refused(boot(member, metadata={"a": "b", "c": "d"}), 403, "metadata")
        refused(member.call("POST", "compute", f"/v2.1/servers/{held}/metadata", {"metadata": {"a": "b", "c": "d"}}), 403, "metadata")
    finally:
        admin.delete("compute", f"/v2.1/os-quota-sets/{member.project_id}")
        member.gone(held)


def test_network_quotas(admin: Person, member: Person, network: dict[str, Any]) -> None:
    used = admin.get("network", f"/v2.0/quotas/{member.project_id}/details")["quota"]
    limits = {name: used[name]["used"] for name in ("network", "subnet", "port")}
    admin.ask("PUT", "network", f"/v2.0/quotas/{member.project_id}", {"quota": limits})
    try:
        for answer in (
            member.call("POST", "network", "/v2.0/networks", {"network": {}}),
            subnet(member, network["id"], "10.65.0.0/24"),
            port(member, network["id"]),
        ):
            refused(answer, 409, "OverQuota", "Quota exceeded for resources")
        refused(boot(member, networks=[{"uuid": network["id"]}]), 403, "Quota exceeded")
    finally:
        admin.delete("network", f"/v2.0/quotas/{member.project_id}")


def test_quotas_are_an_admins_and_a_projects_own(member: Person, stranger: Person) -> None:
    for service, path in (("compute", "/v2.1/os-quota-sets/{}"), ("network", "/v2.0/quotas/{}")):
        assert member.call("GET", service, path.format(member.project_id)).status_code == 200
        refused(member.call("GET", service, path.format(stranger.project_id)), 403)
        refused(member.call("PUT", service, path.format(member.project_id), {}), 403)
    refused(member.call("GET", "compute", f"/v2.1/limits?tenant_id={stranger.project_id}"), 403)
    refused(member.call("GET", "identity", f"/v3/projects/{stranger.project_id}"), 403)
    refused(member.call("GET", "identity", f"/v3/users/{stranger.user_id}"), 403)


# Servers


def test_a_flavor_that_is_too_small_for_the_image(member: Person) -> None:
    much_memory, much_disk = member.image(min_ram=256), member.image(min_disk=2)
    big = member.image(b"\0" * (1 << 20), min_disk=0)
    assert boot(member, imageRef=big).status_code == 202  # a flavor without a disk takes the image's size
    for image_id, flavor, words in ((much_memory, "1", "memory"), (much_disk, "2", "disk")):
        refused(boot(member, imageRef=image_id, flavorRef=flavor), 400, words)
    member.gone(*[row["id"] for row in member.get("compute", "/v2.1/servers", params={"image": big})["servers"]])


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"flavorRef": "nothing"}, "nothing"),
        ({"imageRef": NOBODY}, NOBODY),
        ({"imageRef": "nonsense"}, "nonsense"),
        ({"networks": [{"uuid": NOBODY}]}, NOBODY),
        ({"networks": [{"port": NOBODY}]}, NOBODY),
        ({"networks": [{}]}, "uuid"),
        ({"networks": "some"}, "networks"),
        ({"key_name": "nobody's"}, "key_name"),
        ({"availability_zone": "nowhere"}, "availability zone"),
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": None}, "name"),
        ({"min_count": 0}, "min_count"),
        ({"min_count": 3, "max_count": 2}, "min_count"),
        ({"min_count": "many"}, "min_count"),
        ({"user_data": "not base64!"}, "user_data"),
        ({"user_data": base64.b64encode(b"x" * 60000).decode()}, "User data too large"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"metadata": {"": "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 256}}, "metadata"),
        ({"config_drive": "perhaps"}, "config_drive"),
        ({"accessIPv4": "::1"}, "accessIPv4"),
        ({"OS-DCF:diskConfig": "SOME"}, "diskConfig"),
        ({"security_groups": [{"name": "strict"}]}, "Security group strict not found"),
        ({"block_device_mapping_v2": [{"source_type": "volume", "uuid": NOBODY, "destination_type": "volume"}]}, "volumes"),
        ({"personality": [{"path": "/x", "contents": ""}]}, "personality"),
        ({"adminPass": "secret"}, "adminPass"),
        ({"description": "older microversions have none"}, "description"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_servers_that_make_no_sense(member: Person, wrong: dict[str, Any], word: str) -> None:
    version = "2.18" if "description" in wrong else "2.37"
    if version == "2.18":
        wrong = wrong | {"networks": []}
    refused(boot(member, version, **wrong), 400, word)


def test_a_network_without_a_subnet_gives_no_address(member: Person) -> None:
    bare = member.network(None)
    refused(boot(member, networks=[{"uuid": bare["id"]}]), 400, "subnet")
    member.delete("network", f"/v2.0/networks/{bare['id']}")


def test_hosts_are_an_admins_to_choose(admin: Person, member: Person) -> None:
    host = admin.get("compute", "/v2.1/os-hypervisors")["hypervisors"][0]["hypervisor_hostname"]
    refused(boot(member, "2.74", host=host), 403)
    refused(boot(member, availability_zone=f"nova:{host}"), 403)
    refused(boot(admin, "2.74", host="nowhere"), 400, "nowhere")


def test_no_valid_host_leaves_nothing_behind(admin: Person, member: Person, network: dict[str, Any]) -> None:
    body = {"name": fresh("flavor"), "ram": 300_000, "vcpus": 1, "disk": 1}
    flavor = admin.post("compute", "/v2.1/flavors", {"flavor": body})["flavor"]["id"]
    answer = boot(member, flavorRef=flavor, networks=[{"uuid": network["id"]}])
    shown = member.settled(answer.json()["server"]["id"])
    assert (shown["status"], shown["addresses"], shown["fault"]["code"]) == ("ERROR", {}, 500)
    assert "No valid host" in shown["fault"]["message"]
    assert admin.get("placement", f"/allocations/{shown['id']}")["allocations"] == {}
    assert member.get("network", "/v2.0/ports", params={"device_id": shown["id"]})["ports"] == []
    events = member.get("compute", f"/v2.1/servers/{shown['id']}/os-instance-actions")["instanceActions"]
    assert [event["action"] for event in events] == ["create"] and "No valid host" in events[0]["message"]
    refused(act(member, shown["id"], "os-start"), 409, "vm_state error")
    member.gone(shown["id"])
    admin.delete("compute", f"/v2.1/flavors/{flavor}")


FORBIDDEN = {
    "ACTIVE": ("os-start", "unpause"),
    "SHUTOFF": ("os-stop", "pause", "unpause", "SOFT"),
    "PAUSED": ("os-start", "pause", "SOFT"),
}
REACHED_BY = {"ACTIVE": (), "SHUTOFF": ("os-stop",), "PAUSED": ("pause",)}
VM_STATE = {"ACTIVE": "active", "SHUTOFF": "stopped", "PAUSED": "paused"}
WORDS = {"os-start": "start", "os-stop": "stop", "pause": "pause", "unpause": "unpause", "SOFT": "reboot"}


@pytest.mark.parametrize("status", sorted(FORBIDDEN))
def test_actions_that_the_state_forbids(member: Person, status: str) -> None:
    server = member.server()["id"]
    for action in REACHED_BY[status]:
        assert act(member, server, action).status_code == 202
    assert member.settled(server)["status"] == status
    for action in FORBIDDEN[status]:
        answer = act(member, server, "reboot", {"type": "SOFT"}) if action == "SOFT" else act(member, server, action)
        refused(answer, 409, f"Cannot '{WORDS[action]}' instance {server} while it is in vm_state {VM_STATE[status]}")
    assert member.settled(server)["status"] == status
    member.gone(server)


def test_a_locked_server(member: Person, admin: Person) -> None:
    server = member.server()["id"]
    assert act(admin, server, "lock").status_code == 202
    for action in ("os-stop", "pause"):
        refused(act(member, server, action), 409, "is locked")
    refused(member.call("DELETE", "compute", f"/v2.1/servers/{server}"), 409, "is locked")
    refused(act(member, server, "unlock"), 403)
    assert act(admin, server, "unlock").status_code == 202
    member.gone(server)


@pytest.mark.parametrize(
    "body", [{}, {"fly": None}, {"os-stop": None, "os-start": None}, {"reboot": None}, {"reboot": {"type": "WARM"}}, {"resize": {}}]
)
def test_actions_that_there_are_not(member: Person, server: str, body: dict[str, Any]) -> None:
    refused(member.call("POST", "compute", f"/v2.1/servers/{server}/action", body), 400)


def test_names_that_are_taken(admin: Person, member: Person) -> None:
    key, name = fresh("key"), fresh("name")
    member.post("compute", "/v2.1/os-keypairs", {"keypair": {"name": key}})
    refused(member.call("POST", "compute", "/v2.1/os-keypairs", {"keypair": {"name": key}}), 409, key)
    refused(member.call("POST", "compute", "/v2.1/os-keypairs", {"keypair": {"name": "x", "public_key": "rubbish"}}), 400)
    refused(admin.call("POST", "compute", "/v2.1/flavors", {"flavor": {"name": "m1.tiny", "ram": 1, "vcpus": 1, "disk": 1}}), 409)
    for kind in ("project", "user", "role"):
        assert admin.call("POST", "identity", f"/v3/{kind}s", {kind: {"name": name}}).status_code == 201
        refused(admin.call("POST", "identity", f"/v3/{kind}s", {kind: {"name": name}}), 409)
    image_id = member.image()
    refused(member.call("POST", "image", "/v2/images", {"id": image_id}), 409)


# Images


def new_image(person: Person, disk_format: str = "raw", container_format: str = "bare") -> str:
    body = {"disk_format": disk_format, "container_format": container_format}
    return str(person.post("image", "/v2/images", body)["id"])


def upload(person: Person, image_id: str, content: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    sent = {"Content-Type": "application/octet-stream", **headers}
    return person.call("PUT", "image", f"/v2/images/{image_id}/file", content=content, headers=sent)


def status_of(person: Person, image_id: str) -> str:
    return str(person.get("image", f"/v2/images/{image_id}")["status"])


def test_images_that_make_no_sense(member: Person) -> None:
    for wrong in ({"disk_format": "floppy"}, {"min_ram": -1}, {"min_disk": "big"}, {"name": "x" * 256}, {"tags": "t"}, {"hw_x": 1}):
        assert member.call("POST", "image", "/v2/images", wrong).status_code == 400, wrong
    for forbidden in ({"visibility": "public"}, {"owner": "somebody"}, {"status": "active"}, {"checksum": "x"}):
        assert member.call("POST", "image", "/v2/images", forbidden).status_code == 403, forbidden


def test_images_without_data_boot_nothing(member: Person) -> None:
    queued, off = new_image(member), member.image()
    refused(boot(member, imageRef=queued), 400, "is not active")
    member.ask("POST", "image", f"/v2/images/{off}/actions/deactivate")
    refused(boot(member, imageRef=off), 400, "is not active")
    refused(upload(member, off, b"again"), 409)
    member.delete("image", f"/v2/images/{off}")
    refused(member.call("GET", "image", f"/v2/images/{off}"), 404)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """qcow2 files that would have a host read a file of somebody's choice, and a good one."""
    folder = tmp_path_factory.mktemp("disks")
    (folder / "base").write_bytes(b"\0" * 65536)

    def make(name: str, *options: str) -> bytes:
        path = folder / name
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M"], check=True, cwd=folder)
        return path.read_bytes()

    return {
        "good": make("good"),
        "a backing file": make("backed", "-b", "base", "-F", "raw"),
        "a data file": make("split", "-o", "data_file=data"),
    }


@pytest.mark.parametrize("kind", ["a backing file", "a data file"])
def test_a_qcow2_that_names_another_file(member: Person, cloud: Cloud, disks: dict[str, bytes], kind: str) -> None:
    image_id = new_image(member, "qcow2")
    refused(upload(member, image_id, disks[kind]), 400, kind.split()[1])
    assert status_of(member, image_id) == "queued"
    assert not files_of(cloud, image_id)
    assert upload(member, image_id, disks["good"]).status_code == 204
    assert member.get("image", f"/v2/images/{image_id}")["virtual_size"] == 1 << 20
    member.delete("image", f"/v2/images/{image_id}")
    assert not files_of(cloud, image_id)


@pytest.mark.parametrize(("disk_format", "data"), [("raw", "a backing file"), ("qcow2", "")])
def test_data_that_is_not_what_it_is_said_to_be(member: Person, disks: dict[str, bytes], disk_format: str, data: str) -> None:
    image_id = new_image(member, disk_format)
    refused(upload(member, image_id, disks.get(data, b"no qcow2 at all" * 100)), 400, "qcow2")
    assert status_of(member, image_id) == "queued"


def files_of(cloud: Cloud, image_id: str) -> list[Path]:
    return [path for path in (cloud.state / "images").rglob("*") if image_id in path.name]


@pytest.mark.parametrize("framing", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
def test_an_upload_that_is_cut_off(member: Person, cloud: Cloud, framing: str) -> None:
    image_id = new_image(member)
    host, _, number = cloud.url.removeprefix("http://").partition(":")
    head = f"PUT /image/v2/images/{image_id}/file HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {member.token}\r\n"
    body = bytes(1_000_000)
    if "chunked" in framing:
        body = b"f4240\r\n" + body + b"\r\n"
    with socket.create_connection((host, int(number))) as connection:
        connection.sendall(f"{head}Content-Type: application/octet-stream\r\n{framing}\r\n\r\n".encode() + body)
        until(member, image_id, "saving")
        refused(upload(member, image_id, b"meanwhile"), 409)
    until(member, image_id, "queued")
    assert not files_of(cloud, image_id)
    assert upload(member, image_id, b"whole").status_code == 204
    assert files_of(cloud, image_id)
    assert status_of(member, image_id) == "active"
    member.delete("image", f"/v2/images/{image_id}")


def until(person: Person, image_id: str, status: str) -> None:
    deadline = time.monotonic() + 20
    while (seen := status_of(person, image_id)) != status:
        assert time.monotonic() < deadline, f"the image is {seen}, not {status}"
        time.sleep(0.01)


# External events


def events(person: Person, *given: dict[str, str], version: str | None = None) -> httpx.Response:
    return person.call("POST", "compute", "/v2.1/os-server-external-events", {"events": [*given]}, version=version)


@pytest.fixture(scope="module")
def homeless(member: Person, admin: Person) -> Iterator[str]:
    """A server that is on no host."""
    flavor = admin.post("compute", "/v2.1/flavors", {"flavor": {"name": fresh("f"), "ram": 300_000, "vcpus": 1, "disk": 1}})["flavor"]["id"]
    server = member.settled(boot(member, flavorRef=flavor).json()["server"]["id"])["id"]
    yield server
    member.gone(server)
    admin.delete("compute", f"/v2.1/flavors/{flavor}")


def test_external_events_item_by_item(admin: Person, server: str, homeless: str) -> None:
    good = {"name": "network-changed", "server_uuid": server, "status": "completed"}
    unknown, nowhere = good | {"server_uuid": NOBODY}, good | {"server_uuid": homeless}
    untagged = {"name": "volume-extended", "server_uuid": server}
    answer = events(admin, good)
    assert (answer.status_code, answer.json()) == (200, {"events": [good | {"code": 200}]})
    mixed = events(admin, good, unknown, nowhere, untagged, good | {"tag": "t"}, version="2.51")
    assert mixed.status_code == 207
    assert [(item["code"], item["status"]) for item in mixed.json()["events"]] == [
        (200, "completed"),
        (404, "failed"),
        (422, "failed"),
        (400, "failed"),
        (200, "completed"),
    ]
    assert mixed.json()["events"][4]["tag"] == "t"
    for name in ("network-vif-plugged", "network-vif-unplugged"):
        for status in ("failed", "completed", "in-progress"):
            assert events(admin, {"name": name, "server_uuid": server, "status": status, "tag": NOBODY}).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "network-exploded"},
        {"name": "volume-extended"},
        {"status": "perhaps"},
        {"server_uuid": "nonsense"},
        {"colour": "red"},
        {"tag": "x" * 256},
        {"name": None},
    ],
)
def test_external_events_that_make_no_sense(admin: Person, server: str, wrong: dict[str, Any]) -> None:
    refused(events(admin, {"name": "network-changed", "server_uuid": server} | wrong), 400)


def test_external_events_are_for_services(admin: Person, member: Person, server: str) -> None:
    refused(events(member, {"name": "network-changed", "server_uuid": server}), 403)
    refused(events(admin), 400)
    assert admin.call("GET", "compute", "/v2.1/os-server-external-events").status_code == 405


# What needs a cloud of its own


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A small cloud whose guests take their time to start, and whose images may not be large."""
    limits = {"PILEUS_SIMULATED__START": "1.5", "PILEUS_IMAGE__MAX_SIZE": "100000", "PILEUS_API__MAX_BODY": "2000"}
    with running(tmp_path_factory.mktemp("slow"), **limits, PILEUS_API__MAX_LIMIT="3") as cloud:
        yield cloud


def test_while_a_server_is_being_built(slow: Cloud) -> None:
    admin = slow.admin()
    server = boot(admin).json()["server"]["id"]
    for action in ("os-start", "os-stop", "pause", "unpause"):
        refused(act(admin, server, action), 409, "vm_state building")
    admin.gone(server)
    assert admin.get("compute", "/v2.1/limits")["limits"]["absolute"]["totalInstancesUsed"] == 0


def test_limits_are_settings(slow: Cloud) -> None:
    admin = slow.admin()
    image_id = new_image(admin)
    refused(upload(admin, image_id, b"x" * 100_001), 413)
    refused(upload(admin, image_id, iter([b"x" * 60_000, b"x" * 60_000])), 413)
    assert status_of(admin, image_id) == "queued" and not files_of(slow, image_id)
    assert upload(admin, image_id, b"x" * 100_000).status_code == 204
    refused(admin.call("POST", "network", "/v2.0/networks", {"network": {"description": "x" * 2000}}), 413)
    assert len(admin.get("compute", "/v2.1/flavors", params={"limit": 100})["flavors"]) == 3


def test_a_state_folder_or_port_in_use_and_bad_settings(slow: Cloud, tmp_path: Path) -> None:
    for flags, word in (
        (("--state", str(slow.state)), "in use"),
        (("--state", str(tmp_path / "other"), "--listen", slow.url.removeprefix("http://")), "cannot listen"),
        (("--state", str(tmp_path / "other"), "--hypervisor", "vmware"), "vmware"),
    ):
        with pytest.raises(AssertionError) as refusal, running(tmp_path, *flags):
            raise RuntimeError("it started")
        assert word in str(refusal.value)
        assert "Traceback" not in str(refusal.value)
