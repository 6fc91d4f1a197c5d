"""Looking into a network namespace with whatever program is at hand."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence


async def run_in_namespace(name: str, argv: Sequence[str], *, limit: float) -> tuple[int, str]:
    """Run a program in a named network namespace to its end: exit code, and what it wrote to both outputs."""
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", name, *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(limit):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
