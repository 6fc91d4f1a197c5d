"""The `openstack` command: as a process, and (ten times as fast) in ours."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from openstackclient import shell
from osc_lib.clientmanager import ClientCache, ClientManager

from tests.blackbox.cloud import LIMIT, Cloud, Person


class OpenStack:
    """Runs commands as an entry of clouds.yaml, with a compute microversion where one is given."""

    def __init__(self, clouds_yaml: Path, *, cloud: str = "pileus", version: str | None = None) -> None:
        self.clouds_yaml = clouds_yaml
        self.options = ["--os-cloud", cloud, *(["--os-compute-api-version", version] if version else [])]

    @classmethod
    def of(cls, cloud: Cloud, person: Person, folder: Path) -> OpenStack:
        """For another than the admin: with a clouds.yaml of their own."""
        auth = {
            "auth_url": f"{cloud.url}/identity",
            "username": person.name,
            "password": person.password,
            "project_name": person.project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
        path = folder / f"{person.name}.yaml"
        path.write_text(json.dumps({"clouds": {"pileus": {"auth": auth, "region_name": "RegionOne", "identity_api_version": 3}}}))
        return cls(path)

    def at(self, version: str) -> OpenStack:
        return OpenStack(self.clouds_yaml, cloud=self.options[1], version=version)

    def __call__(self, *arguments: str | Path) -> str:
        """What a command prints. Fails when it does."""
        code, said, complained = self.run(*arguments)
        assert code == 0, (arguments, said, complained)
        return said

    def json(self, *arguments: str | Path) -> Any:
        said = self(*arguments, "-f", "json")
        try:
            return json.loads(said)
        except ValueError:
            raise AssertionError(f"{arguments}: printed {said!r}, which is no JSON") from None

    def refused(self, *arguments: str | Path) -> str:
        """What a command that must fail complains of."""
        code, said, complained = self.run(*arguments)
        assert code != 0, (arguments, said)
        return complained

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout, stderr, of a command in this process. It polls every 20 ms where it would sleep for seconds."""
        said, complained = io.StringIO(), io.StringIO()
        with _undisturbed(self.clouds_yaml), contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            try:
                code = shell.main([*self.options, *map(str, arguments)])
            except SystemExit as end:
                code = int(end.code or 0)
        return code, said.getvalue(), complained.getvalue()

    def process(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """A command as a process of its own."""
        command = [str(Path(sys.executable).with_name("openstack")), *self.options, *map(str, arguments)]
        return subprocess.run(command, env=_environment(self.clouds_yaml), capture_output=True, text=True, timeout=LIMIT, check=False)


def _environment(clouds_yaml: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OS_")} | {"OS_CLIENT_CONFIG_FILE": str(clouds_yaml)}


@contextlib.contextmanager
def _undisturbed(clouds_yaml: Path) -> Iterator[None]:
    """The command configures logging and warnings for a process that is its own; ours gets its own back."""
    hurried = {name: getattr(time, name) for name in dir(time)} | {"sleep": lambda seconds: time.sleep(min(seconds, 0.02))}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    for client in vars(ClientManager).values():
        if isinstance(client, ClientCache):
            client._handle = None  # kept on the class: the next command would be the last one's user at the last one's microversion
    try:
        with (
            warnings.catch_warnings(),
            mock.patch.dict(os.environ, _environment(clouds_yaml), clear=True),
            mock.patch("osc_lib.utils.time", types.SimpleNamespace(**hurried)),
            mock.patch("openstack.utils.time", types.SimpleNamespace(**hurried)),
        ):
            yield
    finally:
        root.handlers[:], root.level = handlers, level
