"""A network's flows: its groups, and how it leaves this host, by an uplink or by tunnels. Pure; `tables` says what for."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pileus.host.switch.actions import Action, Output, PopVlan, PushVlan, Resubmit, SetField, ToGroup
from pileus.host.switch.fields import VLAN_PRESENT
from pileus.host.switch.openflow import AddGroup, DeleteFlows, DeleteGroup, Flow, InsertBucket, Message, RemoveBucket
from pileus.host.switch.tables import (
    CLASSIFY,
    CONFIRM,
    DELIVER,
    FAR,
    FOUND,
    L2,
    LEARNED,
    LEARNED_KIND,
    MULTICAST,
    NETWORK,
    NETWORK_KIND,
    ORIGIN,
    OUTSIDE,
    TUNNEL,
    TUNNEL_KIND,
    UPLINK,
    UPLINK_KIND,
    Mark,
    cookie,
    flood_group,
    learn,
    learned_cookie,
    marker,
    registers,
    remote_group,
    unknown_group,
)


@dataclass(frozen=True)
class Tunnel:
    """How a network leaves this host: by the switch's port for tunnels of its type, with its VNI. `ipv6`: the underlay's version."""

    port: int
    vni: int
    ipv6: bool = False


def add_network(network_id: str, tag: int) -> list[Message]:
    """A network without ports: its two groups, and the flows that lead to them."""
    own = cookie(NETWORK_KIND, network_id)
    return [
        DeleteFlows(own),
        *remove_groups(tag),
        *(AddGroup(group) for group in (flood_group(tag), unknown_group(tag))),
        Flow(L2, 90, own, {NETWORK: tag, "eth_dst": MULTICAST}, (ToGroup(flood_group(tag)),)),
        Flow(L2, 10, own, {NETWORK: tag}, (ToGroup(unknown_group(tag)),)),
        marker(own, Mark(0, 0, tag)),
    ]


def remove_network(network_id: str, tag: int) -> list[Message]:
    """The network's own flows and groups, and its uplink or tunnel."""
    flows = [DeleteFlows(cookie(kind, network_id)) for kind in (NETWORK_KIND, UPLINK_KIND, TUNNEL_KIND, LEARNED_KIND)]
    return [*flows, *remove_groups(tag)]


def remove_groups(tag: int) -> list[Message]:
    return [DeleteGroup(group(tag)) for group in (flood_group, unknown_group, remote_group)]


def add_uplink(network_id: str, tag: int, patch: int) -> list[Message]:
    """Join a network to the patch port of its physical bridge; on the patch its frames carry the local tag."""
    own = cookie(UPLINK_KIND, network_id)
    tagged = {"in_port": patch, "vlan_vid": VLAN_PRESENT | tag}
    take: tuple[Action, ...] = (PopVlan(), *registers(patch, tag), SetField(ORIGIN, OUTSIDE))
    send: tuple[Action, ...] = (Resubmit(CONFIRM), PushVlan(), SetField("vlan_vid", VLAN_PRESENT | tag), Output(patch))
    return [
        marker(own, Mark(0, patch, tag)),
        Flow(CLASSIFY, 100, own, tagged, take, goto=L2),
        Flow(UPLINK, 50, own, {NETWORK: tag}, send),
        *(InsertBucket(group, patch, (Resubmit(UPLINK),)) for group in (flood_group(tag), unknown_group(tag))),
    ]


def remove_uplink(own: int, mark: Mark) -> list[Message]:
    """The other way round, while the network stays; by cookie and mark, as the switch told them."""
    return [DeleteFlows(own), *(RemoveBucket(group, mark.ofport) for group in (flood_group(mark.tag), unknown_group(mark.tag)))]


def add_tunnel(network_id: str, tag: int, tunnel: Tunnel) -> list[Message]:
    """Join a network to the tunnels of its type; to which hosts, `change_members` says.

    Packets are taken from whoever knows the VNI: the underlay is the operator's, and a host that has just come is heard before we
    are told of it.
    """
    own = cookie(TUNNEL_KIND, network_id)
    far: dict[str, int | str] = {FOUND: FAR}
    far |= {"tun_ipv6_dst": "tun_ipv6_src"} if tunnel.ipv6 else {"tun_dst": "tun_src"}
    take = (*registers(tunnel.port, tag), SetField(ORIGIN, OUTSIDE), learn(cookie(LEARNED_KIND, network_id), far))
    send = (Resubmit(CONFIRM), SetField("tun_id", tunnel.vni), Output(tunnel.port))
    return [
        marker(own, Mark(0, tunnel.port, tag)),
        DeleteGroup(remote_group(tag)),
        AddGroup(remote_group(tag)),
        Flow(CLASSIFY, 100, own, {"in_port": tunnel.port, "tun_id": tunnel.vni, "vlan_vid": 0}, take, goto=L2),
        Flow(L2, 20, own, {NETWORK: tag}, (Resubmit(LEARNED), Resubmit(DELIVER))),
        Flow(DELIVER, 50, own, {NETWORK: tag, FOUND: FAR, ORIGIN: 0}, send),
        Flow(DELIVER, 10, own, {NETWORK: tag, FOUND: 0}, (ToGroup(unknown_group(tag)),)),
        Flow(TUNNEL, 50, own, {NETWORK: tag}, (Resubmit(CONFIRM), ToGroup(remote_group(tag)))),
        *(InsertBucket(group, tunnel.port, (Resubmit(TUNNEL),)) for group in (flood_group(tag), unknown_group(tag))),
    ]


def remove_tunnel(own: int, mark: Mark) -> list[Message]:
    """The other way round, while the network stays; by cookie and mark, as the switch told them."""
    buckets = [RemoveBucket(group, mark.ofport) for group in (flood_group(mark.tag), unknown_group(mark.tag))]
    return [DeleteFlows(own), DeleteFlows(learned_cookie(own)), *buckets, DeleteGroup(remote_group(mark.tag))]


def change_members(
    network_id: str, tag: int, tunnel: Tunnel, before: Mapping[str, int] | None, addresses: Collection[str]
) -> tuple[list[Message], dict[str, int]]:
    """Send what is for all to the hosts with these tunnel addresses: the changes, and the buckets then, by address. `before`: those
    that stand; None: not known, so that all are made anew. What was learned is forgotten when a host goes: it may have been there."""
    group = remote_group(tag)
    standing = dict(before or {})
    gone = sorted(standing.keys() - set(addresses))
    changes: list[Message] = [RemoveBucket(group, None)] if before is None else []
    changes += [RemoveBucket(group, standing.pop(address)) for address in gone]
    if gone or before is None:
        changes.append(DeleteFlows(cookie(LEARNED_KIND, network_id)))
    free = max(standing.values(), default=0) + 1
    for bucket, address in enumerate(sorted(set(addresses) - standing.keys()), free):
        where = ipaddress.ip_address(address)
        target = SetField("tun_dst" if where.version == 4 else "tun_ipv6_dst", int(where))
        changes.append(InsertBucket(group, bucket, (SetField("tun_id", tunnel.vni), target, Output(tunnel.port))))
        standing[address] = bucket
    return changes, standing


def add_segment(network_id: str, tag: int, segmentation_id: int, patch: int, device: int) -> list[Message]:
    """A network's flows on its physical bridge: local tag ↔ the VLAN id that the physical network knows."""
    own = cookie(UPLINK_KIND, network_id)
    tagged, segment = VLAN_PRESENT | tag, VLAN_PRESENT | segmentation_id
    return [
        DeleteFlows(own),
        Flow(0, 100, own, {"in_port": patch, "vlan_vid": tagged}, (SetField("vlan_vid", segment), Output(device))),
        Flow(0, 100, own, {"in_port": device, "vlan_vid": segment}, (SetField("vlan_vid", tagged), Output(patch))),
    ]


def remove_segment(network_id: str) -> list[Message]:
    return [DeleteFlows(cookie(UPLINK_KIND, network_id))]
