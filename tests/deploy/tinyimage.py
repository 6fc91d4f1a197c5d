"""Run on the control machine: the tiny guest as an image called `debian`, by its own clouds.yaml."""

from __future__ import annotations

from pathlib import Path

from pileus import tinyguest
from pileus.cli.client import Client


def main() -> None:
    guest = tinyguest.find(tinyguest.default_folder())
    assert guest is not None
    with Client.of_state(Path("/var/lib/pileus")) as client:

        def upload(disk_format: str, data: bytes, **properties: str) -> str:
            body = {"name": disk_format, "disk_format": disk_format, "container_format": disk_format, **properties}
            image: str = client.post("image", "/v2/images", body)["id"]
            client.request("PUT", "image", f"/v2/images/{image}/file", content=data, headers={"Content-Type": "application/octet-stream"})
            return image

        parts = {"kernel_id": upload("aki", guest.kernel.read_bytes()), "ramdisk_id": upload("ari", guest.ramdisk.read_bytes())}
        upload("ami", bytes(1 << 20), **parts, name="debian", os_command_line=tinyguest.COMMAND_LINE)


if __name__ == "__main__":
    main()
