"""Every setting, as one typed tree; `pileus.configuration` reads it from its sources.

A setting exists only if something reads it, does what its help says, and a test shows it (law 9).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
SECRET = {"secret": True}
"""`extra` of a setting whose value is never shown."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group of settings."""


class Api(Section, frozen=True):
    listen: Annotated[
        str,
        Meta(pattern=r"^\S+:\d+$", description="Address and port that the five APIs answer on."),
    ] = "127.0.0.1:8774"
    public_url: Annotated[
        str,
        Meta(description="The URL that clients reach us by, written into the catalogue; empty: made from `listen`."),
    ] = ""
    max_body: Annotated[AtLeastOne, Meta(description="Largest accepted JSON body, in bytes (image uploads are not JSON).")] = 1 << 20
    max_limit: Annotated[AtLeastOne, Meta(description="Most items of one page of a list.")] = 1000
    drain: Annotated[Seconds, Meta(description="How long requests under way may take to finish when we are told to end.")] = 5.0


class Bus(Section, frozen=True):
    url: Annotated[
        str,
        Meta(
            pattern=r"^((nats|tls)://[^\s,@]+(,(nats|tls)://[^\s,@]+)*)?$",
            description="NATS servers, nats:// or tls:// (encrypted or not at all), with commas; empty: messages stay within the process.",
        ),
    ] = ""
    credentials: Annotated[
        str, Meta(description="File of credentials (`pileus bus setup` and `pileus host add` write them); empty: none.")
    ] = ""
    ca: Annotated[str, Meta(description="File of certificates that a NATS server's must be signed by; empty: the system's.")] = ""


class Database(Section, frozen=True):
    url: Annotated[
        str,
        Meta(
            pattern=r"^$|^postgres(ql)?://[^/\s]+/[^/?\s]+(\?\S*)?$",
            description="The database: postgresql://user:password@host:port/name, made or upgraded by `pileus db upgrade`; "
            "empty: an SQLite file in the state folder.",
            extra=SECRET,
        ),
    ] = ""
    max_pool_size: Annotated[
        AtLeastOne, Meta(description="PostgreSQL: most connections of one process; they are opened when they are needed.")
    ] = 10
    pool_timeout: Annotated[
        float, Meta(gt=0, description="PostgreSQL: how long a transaction waits for one of them to be free, before it is refused with 503.")
    ] = 10.0


class Metrics(Section, frozen=True):
    listen: Annotated[
        str,
        Meta(
            pattern=r"^$|^\S+:\d+$",
            description="Address and port of this process's figures for Prometheus, on /metrics; of several processes alike each takes the "
            "next port; empty: none.",
        ),
    ] = ""


class Identity(Section, frozen=True):
    token_lifetime: Annotated[float, Meta(ge=60, description="Seconds that a token is good for.")] = 12 * 3600.0
    key_rotation: Annotated[float, Meta(ge=60, description="Seconds after which a new Fernet key signs the tokens.")] = 24 * 3600.0
    admin_password: Annotated[
        str,
        Meta(
            pattern=r'^[^"\\\s]*$',
            description="The admin's password in a new cloud, for clouds.yaml on each machine; empty: one is made up. In the environment "
            "also PILEUS_ADMIN_PASSWORD.",
            extra=SECRET,
        ),
    ] = ""


class Image(Section, frozen=True):
    max_size: Annotated[AtLeastOne, Meta(description="Largest image, in bytes.")] = 1 << 40
    inspect_memory: Annotated[
        AtLeastOne, Meta(description="Memory limit of the qemu-img process that looks at an uploaded image, in bytes.")
    ] = 1 << 30
    inspect_timeout: Annotated[Seconds, Meta(description="Time limit of that process.")] = 30.0
    folder: Annotated[
        str,
        Meta(description="Folder of the images' data, shared by all processes of the image service; empty: `images` in the state folder."),
    ] = ""
    ticket_lifetime: Annotated[
        float, Meta(ge=60, description="Seconds for which a host may begin to fetch an image that it was told to start from.")
    ] = 3600.0


class ServiceAuth(Section, frozen=True):
    """How our services log in where they call a Nova or Neutron of another cloud (`compute.network_url`, `network.nova_url`)."""

    auth_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s@]+)?$",
            description="That cloud's Keystone, with its /v3; empty: the tokens of our own identity service.",
        ),
    ] = ""
    username: Annotated[str, Meta(description="User with the service role there.")] = ""
    user_domain_name: Annotated[str, Meta(description="The user's domain.")] = "Default"
    password: Annotated[str, Meta(description="The user's password.", extra=SECRET)] = ""
    project_name: Annotated[str, Meta(description="Project that the user works in.")] = "service"
    project_domain_name: Annotated[str, Meta(description="The project's domain.")] = "Default"
    ca: Annotated[str, Meta(description="File of certificates that https URLs must be signed by; empty: the system's.")] = ""


class Compute(Section, frozen=True):
    plug_signal: Annotated[
        Literal["local", "callback"],
        Meta(description="Who tells a host that a port is ready: the agent beside it, or OpenStack's way by RPC, REST and RPC."),
    ] = "local"
    vif_plugging_timeout: Annotated[
        Seconds,
        Meta(
            description="How long a guest waits, paused, for its network. 0 means with `callback`: do not wait; with `local`: `plug_limit`."
        ),
    ] = 300.0
    vif_plugging_is_fatal: Annotated[
        bool,
        Meta(
            description="With `callback`: a network that does not come fails the server (true) or it starts without (false). "
            "With `local` it always fails it."
        ),
    ] = True
    vif_plugging_reread: Annotated[
        bool,
        Meta(
            description="With `callback`: a host that hears nothing reads the ports' levels itself, now and then and before it gives up. "
            "false: it believes in events alone, as Nova does."
        ),
    ] = True
    hold_build_slot: Annotated[
        bool,
        Meta(description="A build that only waits for its network keeps its place among `max_concurrent_builds`, as in Nova."),
    ] = False
    network_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s@]+[^/\s@])?$",
            description="The Neutron API (without /v2.0) that compute uses, over HTTP; empty: our own network service in process.",
        ),
    ] = ""
    network_request_timeout: Annotated[float, Meta(gt=0, description="Limit of one request to `network_url`.")] = 30.0
    network_retries: Annotated[
        Count, Meta(description="How often a request to `network_url` that found nobody, or was answered 502 to 504, is tried again.")
    ] = 3
    heal_instance_info_cache_interval: Annotated[
        float,
        Meta(
            description="Seconds after which a server's network info cache is read anew though no event asked for it; 0 or less: never. "
            "Also written heal_instance_info_cache."
        ),
    ] = 600.0
    heal_scope: Annotated[
        Literal["one", "all"],
        Meta(description="In each interval: `one` server of each host, as Nova does, or `all` servers, spread evenly."),
    ] = "one"
    heal_resume: Annotated[
        bool,
        Meta(description="After a restart of a host's compute service healing goes on where it was; false: it begins again, all at once."),
    ] = True
    explain: Annotated[
        bool,
        Meta(
            description="What hosts say of their steps is written down, and `pileus why` and os-instance-actions tell where an action "
            "waits, or waited. false: as in Nova, only that it began and how it ended."
        ),
    ] = True
    max_builds: Annotated[
        Count,
        Meta(description="Servers being built at once, in all; the others wait, fairly between projects. 0: as many as the hosts take."),
    ] = 256
    max_concurrent_builds: Annotated[
        Count, Meta(description="Servers being built at once on one host; what only waits for its network does not count. 0: no limit.")
    ] = 10
    deletes_beside_creates: Annotated[
        float,
        Meta(ge=0, description="Deletes that a worker process does a second while servers are being made; 0: as many as it can."),
    ] = 23.0
    queue_limit: Annotated[Seconds, Meta(description="How long a create may wait for its turn. 0: for ever.")] = 3600.0
    blocked_limit: Annotated[
        Seconds,
        Meta(
            description="How long a create that fits nowhere waits for room before it fails. 0: it fails at once, as in Nova. One that "
            "only waits for other builds to end has `queue_limit`."
        ),
    ] = 60.0
    schedule_limit: Annotated[Seconds, Meta(description="Limit of choosing and claiming a host, all tries together.")] = 30.0
    network_limit: Annotated[Seconds, Meta(description="Limit of one call to the network service.")] = 30.0
    image_limit: Annotated[Seconds, Meta(description="Limit of getting the image onto the host.")] = 600.0
    start_limit: Annotated[Seconds, Meta(description="Limit of starting the guest process, paused.")] = 30.0
    plug_limit: Annotated[Seconds, Meta(description="Limit of making the TAP and the switch port.")] = 30.0
    resend_interval: Annotated[
        float,
        Meta(
            gt=0,
            description="A host that has not answered is sent its desired state again after this time, then after twice it, ….",
        ),
    ] = 5.0
    action_limit: Annotated[Seconds, Meta(description="Limit of a start, stop, reboot, pause, unpause or delete on a host that is up.")] = (
        120.0
    )
    deleted_retention: Annotated[float, Meta(gt=0, description="Seconds that deleted servers and finished actions are remembered.")] = (
        7 * 86400.0
    )
    shutdown_timeout: Annotated[Seconds, Meta(description="How long a guest may take to power off by itself before it is ended.")] = 60.0
    report_interval: Annotated[
        float, Meta(gt=0, description="How often a host tells all the guests it holds, so that a lost word is made good.")
    ] = 240.0
    heartbeat_interval: Annotated[float, Meta(gt=0, description="How often a host says that it lives, and what it has.")] = 25.0
    service_down_time: Annotated[float, Meta(gt=0, description="A host not heard of for so long counts as down.")] = 60.0
    cpu_allocation_ratio: Annotated[float, Meta(gt=0, description="Virtual CPUs offered for each real one.")] = 16.0
    ram_allocation_ratio: Annotated[float, Meta(gt=0, description="Guest memory offered for each byte of real memory.")] = 1.0
    disk_allocation_ratio: Annotated[float, Meta(gt=0, description="Guest disk offered for each byte of real disk.")] = 1.0
    reserved_host_memory_mb: Annotated[Count, Meta(description="Memory of a host that is kept from guests, in MiB.")] = 512
    availability_zone: Annotated[str, Meta(min_length=1, description="The availability zone of hosts.")] = "nova"


class Quota(Section, frozen=True):
    """Limits of a project that has none of its own; -1: no limit."""

    instances: Annotated[int, Meta(ge=-1, description="Servers.")] = 100
    cores: Annotated[int, Meta(ge=-1, description="Virtual CPUs of all servers.")] = 200
    ram: Annotated[int, Meta(ge=-1, description="Memory of all servers, MiB.")] = 512000
    queued_creates: Annotated[
        int, Meta(ge=-1, description="Creates that wait at once; one more is answered 429, with the time after which to try again.")
    ] = -1
    key_pairs: Annotated[int, Meta(ge=-1, description="Key pairs of a user.")] = 100
    metadata_items: Annotated[int, Meta(ge=-1, description="Metadata items of a server.")] = 128
    network: Annotated[int, Meta(ge=-1, description="Networks.")] = 100
    subnet: Annotated[int, Meta(ge=-1, description="Subnets.")] = 100
    port: Annotated[int, Meta(ge=-1, description="Ports.")] = 500
    security_group: Annotated[int, Meta(ge=-1, description="Security groups.")] = 10
    security_group_rule: Annotated[int, Meta(ge=-1, description="Rules of all its security groups.")] = 100


class Network(Section, frozen=True):
    mtu: Annotated[
        int,
        Meta(
            ge=576, le=9216, description="MTU of the physical networks; of a tunnel network's packets the tunnel's headers are taken off."
        ),
    ] = 1500
    default_type: Annotated[
        Literal["geneve", "vxlan", "vlan", "local"],
        Meta(
            description="Type of networks made without one. `geneve` and `vxlan` tunnel between hosts; `local` networks live on one host."
        ),
    ] = "geneve"
    vni_ranges: Annotated[
        list[str],
        Meta(description="Where the numbers of tunnel networks come from, as `first:last`; each type has its own numbers."),
    ] = msgspec.field(default_factory=lambda: ["1:16777215"])
    underlay: Annotated[
        Literal["ipv4", "ipv6"],
        Meta(description="IP version of the hosts' tunnel addresses. With `ipv6` a tunnel network's MTU is 20 less."),
    ] = "ipv4"
    members_gather: Annotated[
        Seconds,
        Meta(
            description="What joins or leaves networks and security groups is gathered for so long before the hosts are told, all in one "
            "message each."
        ),
    ] = 0.3
    members_rate: Annotated[
        float,
        Meta(gt=0, description="Most hosts told a second of changes of one security group: with more of them more is gathered."),
    ] = 500.0
    members_interval: Annotated[
        float,
        Meta(
            gt=0,
            description="How often a host asks which others share its tunnel networks, and what its security groups are, so that a lost "
            "word is made good.",
        ),
    ] = 60.0
    vlan_ranges: Annotated[
        list[str],
        Meta(description="Where tenant and provider VLANs come from: `physnet:first:last`, or `physnet` alone for provider networks only."),
    ] = []
    max_dns_nameservers: Annotated[Count, Meta(description="DNS servers of one subnet.")] = 5
    max_host_routes: Annotated[Count, Meta(description="Host routes of one subnet.")] = 20
    max_fixed_ips: Annotated[AtLeastOne, Meta(description="Fixed IPs of one port.")] = 5
    dhcp_lease: Annotated[float, Meta(ge=120, description="Lease time of the DHCP servers, in seconds.")] = 86400.0
    mac_prefix: Annotated[str, Meta(pattern=r"^([0-9a-f][02468ace])(:[0-9a-f]{2}){2}$", description="First half of generated MACs.")] = (
        "fa:16:3e"
    )
    rpc_workers: Annotated[
        AtLeastOne,
        Meta(description="Processes that take the agents' RPC. `pileus up` is one process, so more than 1 is refused there."),
    ] = 1
    executor_thread_pool_size: Annotated[
        AtLeastOne,
        Meta(description="RPC requests of agents, of each kind, that one such process works on at once; the others wait on the bus."),
    ] = 8
    nova_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s@]+[^/\s@])?$",
            description="The compute API (with /v2.1) that is told of ports; empty: our own.",
        ),
    ] = ""
    notify: Annotated[
        Literal["until_delivered", "once"],
        Meta(description="Events for the compute API are tried until they are delivered or overtaken; `once`: for a second, then dropped."),
    ] = "until_delivered"
    notify_agents: Annotated[
        Literal["concerned", "all"],
        Meta(
            description="Who is told of a port that was wired, or failed: `concerned` hosts only, of what they share with it; or `all` "
            "agents of the cloud, each of which looks whether it has the port, as in Neutron."
        ),
    ] = "concerned"
    rpc_statements: Annotated[
        Count,
        Meta(
            description="Statements that the handling of one port's details and level costs beyond our own, each a round trip; Neutron has "
            "137 for a boot. They ask the database for the port again and again, and nothing comes of them."
        ),
    ] = 0
    api_statements: Annotated[
        Count,
        Meta(description="The same for each request to the network API (16: healing a server costs 90 in all, as in Neutron)."),
    ] = 0
    agent_loop: Annotated[
        Literal["lanes", "serial"],
        Meta(
            description="How the agent works: wires, updates and removals in lanes of their own, as they come; or all of them in the turns "
            "of one loop, removals first, as Neutron's does."
        ),
    ] = "lanes"
    polling_interval: Annotated[
        float, Meta(gt=0, description="With `serial`: seconds between the beginnings of two turns; a longer turn delays the next.")
    ] = 2.0
    flow_deletion: Annotated[
        Literal["deferred", "bundled", "blocking"],
        Meta(
            description="How the flows of a removed port go: in a lane of their own; in one bundle, while the agent does nothing else; or "
            "one call a flow, while the agent does nothing else."
        ),
    ] = "deferred"
    send_events_interval: Annotated[
        Seconds,
        Meta(description="With `callback`: after a notification, events for the compute API are gathered this long before the next."),
    ] = 2.0
    notify_timeout: Annotated[float, Meta(gt=0, description="Limit of one notification request to the compute API.")] = 30.0
    report_interval: Annotated[
        Seconds, Meta(description="With `lanes`, the agent gathers reports for this long before it sends them as one.")
    ] = 0.0
    rpc_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Longest wait for the answer to one RPC of an agent; the first tries wait less, and it is tried until answered. "
            "With `network.agent_loop` serial, details and reports wait so long at first, and then twice as long each time.",
        ),
    ] = 60.0
    agent_down_time: Annotated[float, Meta(gt=0, description="An agent not heard of for so long counts as dead.")] = 75.0


class Host(Section, frozen=True):
    name: Annotated[str, Meta(description="Name of this host; empty: the machine's host name.")] = ""
    hypervisor: Annotated[
        Literal["auto", "qemu", "simulated"],
        Meta(description="What runs guests; `auto`: QEMU where root, QEMU and Open vSwitch are there, else simulated."),
    ] = "auto"
    hosts: Annotated[AtLeastOne, Meta(description="How many hosts. More than 1 only simulated.")] = 1
    acceleration: Annotated[
        Literal["auto", "kvm", "tcg"],
        Meta(description="`auto` proves KVM in the background and uses TCG until it is proven."),
    ] = "auto"
    switch_db: Annotated[
        str,
        Meta(description="OVSDB socket of a running Open vSwitch to use (unix:PATH); empty: daemons of our own in the state folder."),
    ] = ""
    bridge: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,12}$", description="Name of the integration bridge.")] = "br-int"
    bridge_mappings: Annotated[
        dict[str, str],
        Meta(
            description="Physical network → Linux device that carries its VLANs. The switch takes it for itself: it may carry no address."
        ),
    ] = {}
    tunnel_address: Annotated[
        str,
        Meta(
            description="IP address that other hosts' tunnels reach this host by, with `host.tunnel_device` with its prefix length "
            "(192.0.2.7/24); empty: no tunnels, a `geneve` or `vxlan` network that has a port here lives on this host alone."
        ),
    ] = ""
    tunnel_device: Annotated[
        str,
        Meta(
            description="Linux device that carries the tunnels. The switch takes it for itself and gives `host.tunnel_address` to a "
            "bridge on it: it may carry no address. Empty: the address is where the switch runs already."
        ),
    ] = ""
    guest_uid_base: Annotated[int, Meta(ge=1000, description="Guests run under numeric user ids of their own from here on.")] = (
        2_000_000_000
    )
    guest_uid_count: Annotated[AtLeastOne, Meta(description="How many such user ids there are: the most guests of this host.")] = 65536
    console_cap: Annotated[int, Meta(ge=4096, description="Bytes kept of a guest's serial log.")] = 1 << 20
    fetch_concurrency: Annotated[AtLeastOne, Meta(description="Images fetched at once.")] = 4
    remove_unused_original_minimum_age_seconds: Annotated[
        Seconds, Meta(description="A cached image that no guest stands on is removed when nobody has asked for it in this time.")
    ] = 86400.0
    start_concurrency: Annotated[
        Count,
        Meta(description="Guest processes started at once; 0: one for each core. What waits for the network does not count."),
    ] = 0
    delete_concurrency: Annotated[AtLeastOne, Meta(description="Guests removed at once, in the lane of their own.")] = 2
    guest_emulator: Annotated[str, Meta(description="The QEMU program.")] = "qemu-system-x86_64"
    api_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://\S+[^/\s])?$",
            description="URL of the API, without a slash at its end, that `serve host` fetches images from; `up` reads them itself.",
        ),
    ] = ""
    api_ca: Annotated[str, Meta(description="File of certificates that an https `api_url` must be signed by; empty: the system's.")] = ""


class Simulated(Section, frozen=True):
    """The simulated hypervisor and switch of hollow hosts: seconds each step takes, and what goes wrong."""

    vcpus: Annotated[AtLeastOne, Meta(description="CPUs of a hollow host.")] = 64
    memory_mb: Annotated[AtLeastOne, Meta(description="Memory of a hollow host, MiB.")] = 262144
    disk_gb: Annotated[AtLeastOne, Meta(description="Disk of a hollow host, GiB.")] = 4096
    start: Annotated[Seconds, Meta(description="Starting a guest paused.")] = 0.0
    stop: Annotated[Seconds, Meta(description="Ending a guest.")] = 0.0
    plug: Annotated[Seconds, Meta(description="Adding a switch port.")] = 0.0
    wire: Annotated[Seconds, Meta(description="Wiring a port.")] = 0.0
    unplug: Annotated[Seconds, Meta(description="Removing a batch of ports.")] = 0.0
    delete_flow: Annotated[Seconds, Meta(description="Deleting one flow by a call of its own (`network.flow_deletion` blocking).")] = 0.0
    delete_flow_bundled: Annotated[Seconds, Meta(description="Deleting one flow among others of a bundle.")] = 0.0
    add_member: Annotated[Seconds, Meta(description="Adding or removing one address of a security group's remote members.")] = 0.0
    flows_per_port: Annotated[
        Count,
        Meta(
            description="Flows of a port before any rule, each of which is deleted with it: as many as a port with one IPv4 address has on "
            "the real switch; Neutron's has about 43."
        ),
    ] = 22
    jitter: Annotated[float, Meta(ge=0, le=1, description="Latencies vary by this part, evenly.")] = 0.0
    fail_start: Annotated[float, Meta(ge=0, le=1, description="Probability that a guest does not start.")] = 0.0
    fail_wire: Annotated[float, Meta(ge=0, le=1, description="Probability that wiring a port fails.")] = 0.0


class Settings(Section, frozen=True):
    profile: Annotated[
        Literal["default", "story"],
        Meta(
            description="`story`: a documented group of settings is as the story's platform had it (`pileus config --profile story` shows "
            "them and why); settings of your own still win."
        ),
    ] = "default"
    state: Annotated[str, Meta(min_length=1, description="The state folder: database, keys, images, guests, switch.")] = "pileus-state"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level that is logged.")] = "info"
    api: Api = Api()
    bus: Bus = Bus()
    database: Database = Database()
    metrics: Metrics = Metrics()
    identity: Identity = Identity()
    image: Image = Image()
    service_auth: ServiceAuth = ServiceAuth()
    compute: Compute = Compute()
    quota: Quota = Quota()
    network: Network = Network()
    host: Host = Host()
    simulated: Simulated = Simulated()
