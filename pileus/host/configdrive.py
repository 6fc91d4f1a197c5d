"""The config drive: a small ISO 9660 disk, labelled `config-2`, from which a guest learns who it is.

The layout and the formats are OpenStack's (Nova's user guide, "Metadata service formats"), as cloud-init's ConfigDrive source
reads them: `openstack/VERSION/{meta_data,network_data,vendor_data}.json` and `user_data`, once under `latest` and once
under the version they conform to.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pileus.messages import FixedIP, GuestSpec, PortWiring, SubnetWiring

if TYPE_CHECKING:
    import pycdlib

LABEL = "config-2"
VERSIONS = ("2020-10-14", "latest")


def build(spec: GuestSpec, path: Path) -> None:
    """Write a guest's config drive, whole or not at all, readable by us only (user data holds secrets). Raises OSError.

    Blocks for some milliseconds: call it off the event loop.
    """
    import pycdlib  # here, because importing it takes longer than making most drives, and most clouds make none

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, rock_ridge="1.09", joliet=3, vol_ident=LABEL, sys_ident="LINUX")
    try:
        _add_folder(image, "/OPENSTACK", "openstack")
        contents = files(spec)
        for number, version in enumerate(VERSIONS):
            folder = f"/OPENSTACK/V{number}"
            _add_folder(image, folder, f"openstack/{version}")
            for count, (name, content) in enumerate(contents.items()):
                image.add_fp(
                    io.BytesIO(content),
                    len(content),
                    f"{folder}/F{count}.;1",
                    rr_name=name,
                    joliet_path=f"/openstack/{version}/{name}",
                )
        data = io.BytesIO()
        image.write_fp(data)
    finally:
        image.close()
    temporary = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data.getbuffer())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def files(spec: GuestSpec) -> dict[str, bytes]:
    """The files of one version folder, by name."""
    found = {
        "meta_data.json": _json(meta_data(spec)),
        "network_data.json": _json(network_data(spec.ports)),
        "vendor_data.json": _json({}),
        "vendor_data2.json": _json({}),
    }
    if spec.user_data is not None:
        found["user_data"] = base64.b64decode(spec.user_data)
    return found


def meta_data(spec: GuestSpec) -> dict[str, Any]:
    """meta_data.json. The random seed is new with every call."""
    found: dict[str, Any] = {
        "uuid": spec.server_id,
        "name": spec.name,
        "hostname": spec.hostname,
        "project_id": spec.project_id,
        "availability_zone": spec.availability_zone,
        "launch_index": spec.launch_index,
        "devices": [],
        "dedicated_cpus": [],
        "random_seed": base64.b64encode(os.urandom(512)).decode(),
    }
    if spec.metadata:
        found["meta"] = spec.metadata
    if spec.public_keys:
        found["public_keys"] = spec.public_keys
        found["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in spec.public_keys.items()]
    return found


def network_data(ports: list[PortWiring]) -> dict[str, Any]:
    """network_data.json: a link a port, a network an address. Addresses that DHCP gives out are left to DHCP."""
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, str]] = []
    for port in ports:
        link = f"tap{port.port_id[:11]}"
        links.append({"id": link, "vif_id": port.port_id, "type": "ovs", "mtu": port.mtu, "ethernet_mac_address": port.mac})
        subnets = {subnet.id: subnet for subnet in port.subnets}
        for fixed in port.fixed_ips:
            subnet = subnets.get(fixed.subnet_id)
            if subnet is None:
                continue
            head = {"id": f"network{len(networks)}", "link": link, "network_id": port.network_id}
            if subnet.ip_version == 4 and subnet.enable_dhcp:
                networks.append({**head, "type": "ipv4_dhcp"})
            else:
                networks.append({**head, **_static(fixed, subnet)})
                services += [service for service in _dns(subnet) if service not in services]
    return {"links": links, "networks": networks, "services": services}


def _static(fixed: FixedIP, subnet: SubnetWiring) -> dict[str, Any]:
    everywhere = "0.0.0.0/0" if subnet.ip_version == 4 else "::/0"
    ways = [(everywhere, subnet.gateway)] if subnet.gateway else []
    ways += [(route.destination, route.nexthop) for route in subnet.routes]
    routes = [{**_net(destination), "gateway": gateway} for destination, gateway in ways]
    return {
        "type": f"ipv{subnet.ip_version}",
        "ip_address": fixed.address,
        "netmask": _net(subnet.cidr)["netmask"],
        "routes": routes,
        "services": _dns(subnet),
    }


def _net(cidr: str) -> dict[str, str]:
    net = ipaddress.ip_network(cidr, strict=False)
    return {"network": str(net.network_address), "netmask": str(net.netmask)}


def _dns(subnet: SubnetWiring) -> list[dict[str, str]]:
    return [{"type": "dns", "address": address} for address in subnet.dns]


def _add_folder(image: pycdlib.PyCdlib, iso: str, name: str) -> None:
    image.add_directory(iso, rr_name=name.rsplit("/", 1)[-1], joliet_path=f"/{name}")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
