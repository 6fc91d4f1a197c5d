"""`systemctl` of the walk-through's machines: enough of it to run Pileus's units as they are written, and nothing more.

    systemctl enable --now UNIT…, start, stop, restart, reload, kill (-9)

What is heeded: Type=notify, ExecStart=, ExecReload=, Environment= (%d), EnvironmentFile=, LoadCredential=, StateDirectory=, DynamicUser=,
CapabilityBoundingSet=, KillMode=, TimeoutStopSec=. An option that would give a host's unit a mount namespace is not: a test of the units
forbids those.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.deploy.units import Unit, read

UNITS = Path("/etc/systemd/system")
RUN = Path("/run/units")
NOBODY = 61184
"""The first of the user ids that systemd gives to dynamic users."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT = 60.0


def start(name: str) -> None:
    unit = read(UNITS / f"{name}.service")
    assert not running(name), f"{name} runs already"
    RUN.mkdir(exist_ok=True)
    own = unit.last("DynamicUser") == "yes" and _may_run_pileus(NOBODY)
    credentials = _credentials(name, unit, own=own)
    environ = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.environ["PYTHONPATH"],
    }
    environ |= dict(word.partition("=")[::2] for text in unit.all("Environment") for word in shlex.split(text))
    environ = {key: value.replace("%d", str(credentials)) for key, value in environ.items()}
    for file in unit.all("EnvironmentFile"):
        environ |= dict(line.partition("=")[::2] for line in Path(file).read_text().splitlines() if "=" in line)
    for folder in unit.all("StateDirectory"):
        path = Path("/var/lib") / folder
        path.mkdir(mode=int(unit.last("StateDirectoryMode") or "0755", 8), exist_ok=True)
        if own:
            os.chown(path, NOBODY, NOBODY)
    words = shlex.split(unit.last("ExecStart"))
    if unit.all("CapabilityBoundingSet") == [""]:
        words = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *words]
    if own:
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, (RUN / f"{name}.log").open("ab") as log:
        if unit.last("Type") == "notify":
            environ["NOTIFY_SOCKET"] = f"@{name}"
            channel.bind(f"\0{name}")
        process = subprocess.Popen(words, env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (RUN / f"{name}.pid").write_text(str(process.pid))
        if unit.last("Type") == "notify":
            _wait_for_ready(name, process, channel)


def stop(name: str) -> None:
    unit = read(UNITS / f"{name}.service")
    assert unit.last("KillMode") in ("process", "mixed", ""), "what else is not known here"
    os.kill(_process(name), signal.SIGTERM)
    if not _over(name, float(unit.last("TimeoutStopSec") or 90)):
        kill(name)
        raise SystemExit(f"{name} did not end by SIGTERM")


def restart(name: str) -> None:
    stop(name)
    start(name)


def reload(name: str) -> None:
    text = read(UNITS / f"{name}.service").last("ExecReload").replace("$MAINPID", str(_process(name)))
    subprocess.run(shlex.split(text), check=True)


def kill(name: str) -> None:
    os.kill(_process(name), signal.SIGKILL)
    _over(name, LIMIT)


def running(name: str) -> int:
    """The process of a unit; 0: none."""
    try:
        pid = int((RUN / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return 0
    return 0 if state == "Z" else pid


def _process(name: str) -> int:
    pid = running(name)
    if not pid:
        raise SystemExit(f"{name} does not run")
    return pid


def _over(name: str, limit: float) -> bool:
    ends = time.monotonic() + limit
    while running(name) and time.monotonic() < ends:
        time.sleep(0.01)
    return not running(name)


def _wait_for_ready(name: str, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    channel.settimeout(0.1)
    ends = time.monotonic() + LIMIT
    while time.monotonic() < ends and process.poll() is None:
        try:
            if b"READY=1" in channel.recv(4096).split():
                return
        except TimeoutError:
            continue
    said = (RUN / f"{name}.log").read_text()[-2000:]
    raise SystemExit(f"{name} has not said that it is ready (exit code {process.poll()}): {said}")


def _credentials(name: str, unit: Unit, *, own: bool) -> Path:
    folder = Path("/run/credentials") / name
    for text in unit.all("LoadCredential"):
        key, _, source = text.partition(":")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / key)
        for path in (folder, folder / key):
            path.chmod(0o500 if path is folder else 0o400)
            if own:
                os.chown(path, NOBODY, NOBODY)
    return folder


@functools.cache
def _may_run_pileus(uid: int) -> bool:
    """Whether this checkout is where another user can read it."""
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-c", "import pileus.errors"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


COMMANDS = {"start": start, "stop": stop, "restart": restart, "reload": reload, "kill": kill}


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--now"]
    verb = {"enable": "start"}.get(words[0], words[0])
    _may_run_pileus(NOBODY)
    with ThreadPoolExecutor() as beside:
        for _ in beside.map(COMMANDS[verb], words[1:]):
            pass


if __name__ == "__main__":
    main()
