"""A headless Chromium, spoken to by its own protocol through two pipes: what a page does in a browser, not what its text says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT = 60.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

MEASURE = """(() => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
  const shown = e => e.checkVisibility();
  return {
    title: document.title,
    charts: [...document.querySelectorAll('svg[role=img]')].filter(shown).map(box),
    figures: [...document.querySelectorAll('figure, .plot')].filter(shown).map(box),
    letters: [...document.querySelectorAll('svg text')].filter(shown).map(e => e.getBoundingClientRect()).map(r => [r.left, r.right]),
    nameless: [...document.querySelectorAll('svg[role=img]')].filter(e => !e.querySelector(':scope > title')?.textContent).length,
    width: document.documentElement.scrollWidth, room: innerWidth,
    sections: [...document.querySelectorAll('h2')].map(e => e.textContent),
    outside: performance.getEntriesByType('resource').map(e => e.name),
    scripts: document.scripts.length,
  };
})()"""

CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = c => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, n) => s + v * [.2126, .7152, .0722][n], 0);
  const own = e => rgb(getComputedStyle(e).backgroundColor);
  const ground = e => { for (; e; e = e.parentElement) if (own(e)[3] === 255) return own(e); return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.tagName === 'title') continue;
    const style = getComputedStyle(e), ink = rgb(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), e.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]).slice(0, 5);
})()"""


def program() -> str | None:
    """Where the browser is; None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """`said`: messages of the console and of the browser's log; `asked`: what pages wanted to fetch, but for themselves."""

    def __init__(self, to: int, back: int) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self._to, self._back = to, back
        self._buffer = b""
        self._number = 0
        self._session: str | None = None

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1200, height: int = 900, scheme: str = "light", media: str = "") -> dict[str, Any]:
        """Show a page so wide, in a colour scheme; what `MEASURE` says of it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + LIMIT
        while self.ask("document.readyState") != "complete" or self.ask("location.href") != page.as_uri():
            assert time.monotonic() < deadline, "the page did not load"
        found: dict[str, Any] = self.ask(MEASURE)
        return found

    def ask(self, expression: str) -> Any:
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol, and its answer."""
        self._number += 1
        wanted = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._to, json.dumps(wanted).encode() + b"\0")
        while (told := self._next()).get("id") != self._number:
            self._hear(told)
        assert "error" not in told, (method, told["error"])
        result: dict[str, Any] = told["result"]
        return result

    def _hear(self, told: dict[str, Any]) -> None:
        kind, about = told.get("method"), told.get("params", {})
        if kind == "Runtime.consoleAPICalled":
            self.said.append(str([argument.get("value") for argument in about["args"]]))
        elif kind == "Runtime.exceptionThrown":
            self.said.append(str(about["exceptionDetails"].get("text")))
        elif kind == "Log.entryAdded":
            self.said.append(about["entry"]["text"])
        elif kind == "Network.requestWillBeSent" and about.get("type") != "Document":
            self.asked.append(about["request"]["url"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._back, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told


@contextlib.contextmanager
def browser(name: str) -> Iterator[Browser]:
    """A browser of one's own, with a profile of its own; all of it is gone afterwards."""
    ours, to = os.pipe()
    back, theirs = os.pipe()

    def pipes() -> None:
        for number, fd in ((13, ours), (14, theirs)):
            os.dup2(fd, number)
        for number in (3, 4):
            os.dup2(number + 10, number, inheritable=True)

    with tempfile.TemporaryDirectory(prefix="pileus-browser-", ignore_cleanup_errors=True) as profile:
        given = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
        given += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [name, *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=pipes,
        )
        os.close(ours)
        os.close(theirs)
        try:
            made = Browser(to, back)
            made.attach()
            yield made
            with contextlib.suppress(AssertionError, OSError):
                made.call("Browser.close")
            process.wait(10)
        finally:
            process.kill()
            process.wait()
            os.close(to)
            os.close(back)
