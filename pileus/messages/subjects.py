"""Where on the bus which message goes."""

from __future__ import annotations

ACTIONS = "compute.actions"
OUTBOX = "network.outbox"
COMPUTE_ECHO = "compute.echo"
NETWORK_ECHO = "network.echo"

# What hosts say and ask. Each has subjects of its own (`from_host`), so that it can speak for no other; the control plane
# listens to all of them (`from_hosts`). Every such message names its `host`.
DETAILS = "get_devices_details_list"
LEVELS = "update_device_list"
OBSERVED = "observed"
PROGRESS = "progress"
READINESS = "readiness"
MEMBERS = "get_network_members"
SECURITY = "get_security"
HEARTBEAT = "heartbeat"  # HostFacts
BEAT = "beat"  # HostBeat
AGENT = "agent"  # AgentFacts
AGENT_BEAT = "agentbeat"  # AgentBeat
REPORT = "report"


def from_host(host: str, kind: str) -> str:
    return f"from.{token(host)}.{kind}"


def from_hosts(kind: str) -> str:
    return f"from.*.{kind}"


def desired_subject(host: str) -> str:
    return f"host.{token(host)}.desired"


def event_subject(host: str) -> str:
    return f"host.{token(host)}.events"


def ports_subject(host: str) -> str:
    return f"host.{token(host)}.ports"


def members_subject(host: str) -> str:
    return f"host.{token(host)}.members"


def security_subject(host: str) -> str:
    return f"host.{token(host)}.security"


def facts_subject(host: str) -> str:
    return f"host.{token(host)}.facts"


def order_subject(host: str, kind: str) -> str:
    """Of orders from a host's compute side to its network agent: plug, wire, remove, left, levels, hold."""
    return f"host.{token(host)}.agent.{kind}"


def holdings_subject(host: str) -> str:
    return f"host.{token(host)}.holdings"


def console_subject(host: str) -> str:
    return f"host.{token(host)}.console"


def token(host: str) -> str:
    """A host's name as one token of a subject: a dot would part it, and the bus's wildcards would match."""
    return host.translate(_TOKEN)


_TOKEN = str.maketrans({sign: f"%{ord(sign):02X}" for sign in "%.*> "})
