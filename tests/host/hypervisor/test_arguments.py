"""A guest as a QEMU command line."""

from __future__ import annotations

import json

from pileus.host.hypervisor.arguments import Disk, Opened, qemu_arguments
from pileus.messages import BootSource, PortWiring
from tests.host.hypervisor.parts import guest


def port(port_id: str, mac: str = "fa:16:3e:00:00:01") -> PortWiring:
    return PortWiring(port_id, 1, "net", "local", None, None, 1442, mac, [], [])


def value(arguments: list[str], option: str) -> list[str]:
    return [arguments[at + 1] for at, word in enumerate(arguments) if word == option]


def test_a_guest_waits_paused_with_nothing_it_was_not_given() -> None:
    arguments = qemu_arguments(guest(vcpus=3, memory_mb=256), Opened(3, 4, 5), acceleration="tcg")
    for word in ("-S", "-nodefaults", "-no-user-config"):
        assert word in arguments
    assert value(arguments, "-m") == ["256M"]
    assert value(arguments, "-smp") == ["3"]
    assert value(arguments, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    assert "-blockdev" not in arguments
    assert "-netdev" not in arguments
    assert "-kernel" not in arguments


def test_the_processor_model_goes_with_the_acceleration() -> None:
    for acceleration, model in (("kvm", "host"), ("tcg", "max")):
        arguments = qemu_arguments(guest(), Opened(3, 4, 5), acceleration=acceleration)
        assert (value(arguments, "-accel"), value(arguments, "-cpu")) == ([acceleration], [model])


def test_every_open_file_is_named_and_inherited() -> None:
    ports = [port("a"), port("b", "fa:16:3e:00:00:02")]
    disk = Disk(6, "qcow2", Disk(7, "raw"))
    opened = Opened(3, 4, 5, disk=disk, config=8, kernel=9, ramdisk=10, taps=[(ports[0], 11), (ports[1], 12)])
    assert sorted(opened.descriptors()) == list(range(3, 13))
    arguments = qemu_arguments(guest(ports=ports), opened, acceleration="tcg")
    assert sorted(value(arguments, "-add-fd")) == ["fd=5,set=1", "fd=6,set=2", "fd=7,set=3", "fd=8,set=4"]
    assert value(arguments, "-netdev") == ["tap,id=net0,fd=11,vhost=off", "tap,id=net1,fd=12,vhost=off"]
    assert value(arguments, "-kernel") == ["/dev/fd/9"]
    assert value(arguments, "-initrd") == ["/dev/fd/10"]
    assert any("mac=fa:16:3e:00:00:02,host_mtu=1442" in device for device in value(arguments, "-device"))


def test_no_image_can_make_qemu_open_a_file_of_its_choice() -> None:
    opened = Opened(3, 4, 5, disk=Disk(6, "qcow2", Disk(7, "qcow2")))
    nodes = {node["node-name"]: node for node in map(json.loads, value(qemu_arguments(guest(), opened, acceleration="tcg"), "-blockdev"))}
    assert nodes["base"]["backing"] is None
    assert nodes["base"]["read-only"] is True
    assert nodes["root"]["backing"] == "base"
    assert {node["filename"] for node in nodes.values() if node["driver"] == "file"} == {"/dev/fdset/2", "/dev/fdset/3"}


def test_a_kernel_speaks_on_the_serial_console_unless_told_otherwise() -> None:
    for words, expected in (("", "console=ttyS0"), ("ro", "ro console=ttyS0"), ("console=hvc0 ro", "console=hvc0 ro")):
        spec = guest(boot=BootSource(command_line=words))
        assert value(qemu_arguments(spec, Opened(3, 4, 5, kernel=6), acceleration="tcg"), "-append") == [expected]
