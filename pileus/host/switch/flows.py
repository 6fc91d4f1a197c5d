"""A port's flows, from its wiring and its rules, and those that are the same for all ports. Pure; `tables` says what for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pileus.host.switch import Filter, antispoof, security
from pileus.host.switch.actions import Action, OutputRegister, Resubmit, SetField
from pileus.host.switch.antispoof import number_of_mac
from pileus.host.switch.fields import TRACKED
from pileus.host.switch.openflow import DeleteFlows, DeleteGroup, Flow, InsertBucket, Message, RemoveBucket
from pileus.host.switch.tables import (
    ANTI_SPOOF,
    CLASSIFY,
    CONFIRM,
    DELIVER,
    DESTINATION,
    DHCP_KIND,
    EGRESS,
    FOUND,
    HOST_ONLY,
    INGRESS,
    L2,
    MULTICAST,
    NEAR,
    NETWORK,
    ORIGIN,
    OUTPUT,
    OUTSIDE,
    PORT_KIND,
    SOURCE,
    TABLES,
    TUNNEL,
    UNKNOWN,
    UPLINK,
    Mark,
    base_cookie,
    cookie,
    flood_group,
    learn,
    learned_cookie,
    marker,
    registers,
    unknown_group,
)
from pileus.messages import PortWiring

NO_SETS: Mapping[str, int] = {}


def base() -> list[Message]:
    """The flows of the tables themselves: a miss drops, said explicitly; what no guest may send, what each may; the output by register."""
    own = base_cookie()
    unicast = {"ct_state": (TRACKED, TRACKED), "eth_dst": (0, MULTICAST[1])}
    return [
        *(Flow(table, 0, own) for table in TABLES),
        *(Flow(ANTI_SPOOF, rule.priority, own, rule.match) for rule in antispoof.FORBIDDEN),
        *security.base(),
        Flow(DELIVER, 50, own, {FOUND: NEAR}, goto=INGRESS),
        Flow(UPLINK, 100, own, {ORIGIN: HOST_ONLY}),
        *(Flow(TUNNEL, 100, own, {ORIGIN: origin}) for origin in (HOST_ONLY, OUTSIDE)),
        Flow(OUTPUT, 10, own, unicast, (Resubmit(CONFIRM), OutputRegister(DESTINATION))),
        Flow(OUTPUT, 1, own, actions=(OutputRegister(DESTINATION),)),
    ]


def erase() -> list[Message]:
    """Everything goes, whoever made it."""
    return [DeleteFlows(0, 0), DeleteGroup(None)]


def mark_of(port: PortWiring, ofport: int, tag: int) -> Mark:
    """What the port's marker will say. A port that is administratively down is in no group."""
    takes_unknown = not port.port_security or any(number_of_mac(pair.mac) != number_of_mac(port.mac) for pair in port.allowed_pairs)
    return Mark(port.generation, ofport, tag, flood=port.admin_up, unknown=port.admin_up and takes_unknown)


def add_port(port: PortWiring, ofport: int, tag: int, rules: Filter | None = None, numbers: Mapping[str, int] = NO_SETS) -> list[Message]:
    """A port's flows (those it had go in the same bundle); its buckets are `change_buckets`. What passes are the packets that `rules` allow
    (None: all), `numbers` being those of the sets that they name; without port security all do."""
    own = cookie(PORT_KIND, port.port_id)
    mark = mark_of(port, ofport, tag)
    flows: list[Message] = [*remove_port(own), marker(own, mark)]
    if not port.admin_up:
        return [*flows, Flow(CLASSIFY, 100, own, {"in_port": ofport})]
    # A MAC that several may own moves with whoever sends by it, from other hosts, too.
    wanders = mark.unknown and port.network_type in ("geneve", "vxlan")
    learns = (learn(learned_cookie(own), {FOUND: NEAR, DESTINATION: SOURCE}),) if wanders else ()
    classified = (*registers(ofport, tag), *(() if port.port_security else learns))
    flows.append(Flow(CLASSIFY, 100, own, {"in_port": ofport, "vlan_vid": 0}, classified, goto=ANTI_SPOOF if port.port_security else L2))
    flows += _delivery(own, ofport, tag, number_of_mac(port.mac))
    flows += security.ingress(own, ofport, rules if port.port_security else None, numbers)
    if port.port_security:
        for rule in antispoof.rules(port):
            flows.append(Flow(ANTI_SPOOF, rule.priority, own, {"in_port": ofport, **rule.match}, learns, goto=EGRESS))
        flows += security.egress(own, ofport, rules, numbers)
        macs = {number_of_mac(pair.mac) for pair in port.allowed_pairs} - {number_of_mac(port.mac)}
        flows += [Flow(UNKNOWN, 50, own, {DESTINATION: ofport, "eth_dst": mac}, goto=INGRESS) for mac in sorted(macs)]
    else:
        flows.append(Flow(UNKNOWN, 50, own, {DESTINATION: ofport}, goto=INGRESS))
    return flows


def remove_port(own: int) -> list[Message]:
    """The flows of a port or DHCP device, by its cookie; its buckets are `change_buckets`."""
    return [DeleteFlows(own), DeleteFlows(learned_cookie(own))]


def add_dhcp_device(network_id: str, mac: str, ofport: int, tag: int) -> list[Message]:
    """The flows of a network's DHCP device: a port that may send what it likes, to guests of this host."""
    own = cookie(DHCP_KIND, network_id)
    classified = (*registers(ofport, tag), SetField(ORIGIN, HOST_ONLY))
    return [
        DeleteFlows(own),
        marker(own, dhcp_mark(ofport, tag)),
        Flow(CLASSIFY, 100, own, {"in_port": ofport, "vlan_vid": 0}, classified, goto=L2),
        *_delivery(own, ofport, tag, number_of_mac(mac)),
        Flow(INGRESS, 110, own, {DESTINATION: ofport, ORIGIN: OUTSIDE}),
        *security.ingress(own, ofport, None, NO_SETS),
        Flow(TUNNEL, 90, own, {NETWORK: tag, "eth_type": 0x0800, "ip_proto": 17, "udp_dst": 67}),
    ]


def dhcp_mark(ofport: int, tag: int) -> Mark:
    return Mark(0, ofport, tag, flood=True)


def change_buckets(before: Mark | None, after: Mark | None) -> list[Message]:
    """From a port's buckets as they are to those it needs."""
    old, new = dict(_buckets(before)), dict(_buckets(after))
    removed = [RemoveBucket(group, bucket) for group, bucket in old if (group, bucket) not in new]
    added = [InsertBucket(*key, actions) for key, actions in new.items() if key not in old]
    return [*removed, *added]


def _buckets(mark: Mark | None) -> Iterator[tuple[tuple[int, int], tuple[Action, ...]]]:
    if mark is not None and mark.flood:
        yield (flood_group(mark.tag), mark.ofport), (SetField(DESTINATION, mark.ofport), Resubmit(INGRESS))
    if mark is not None and mark.unknown:
        yield (unknown_group(mark.tag), mark.ofport), (SetField(DESTINATION, mark.ofport), Resubmit(UNKNOWN))


def _delivery(own: int, ofport: int, tag: int, mac: int) -> list[Flow]:
    return [Flow(L2, 100, own, {NETWORK: tag, "eth_dst": mac}, (SetField(DESTINATION, ofport),), goto=INGRESS)]
