"""`make soak`: chaos for as long as one likes, by both plug signals in turn, on hollow hosts and, as root, on real ones.

`python -m tests.chaos.soak [SECONDS [SEED]]`: prints what happens as it happens, and ends with 1 when something is wrong.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.chaos.run import run, story
from tests.chaos.stages import HOLLOW, REAL

ROUND = 60.0
"""Seconds of faults of one run, at most; then everything must have found its end, and a new cloud begins."""


def main(seconds: float, seed: int) -> int:
    print(f"seed {seed}: make soak SECONDS={seconds:g} SEED={seed} repeats it", flush=True)
    missing = missing_for_real(Settings())
    stages = {"hollow hosts": HOLLOW} if missing else {"hollow hosts": HOLLOW, "real hosts": REAL}
    if missing:
        print(f"without real hosts: {missing}", flush=True)
    rounds = [(where, stage, signal) for signal in ("local", "callback") for where, stage in stages.items()]
    ends, number, bad = time.monotonic() + seconds, 0, 0
    while number == 0 or time.monotonic() < ends:
        where, stage, signal = rounds[number % len(rounds)]
        own = random.Random(f"{seed}.{number}").randrange(1 << 32)
        print(f"\n{number + 1}. {where}, plug signal {signal}, seed {own}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix="pl-soak-", dir="/tmp"))
        folder.chmod(0o755)
        length = min(ROUND, max(10.0, seconds / len(rounds)))
        outcome = asyncio.run(run(folder, own, signal=signal, seconds=length, stage=stage, tell=lambda words: print(words, flush=True)))
        if outcome.wrong:
            bad += 1
            print(story(own, signal, outcome, folder), flush=True)
        else:
            shutil.rmtree(folder)
            print(f"all is well: {outcome.statuses}, {outcome.counts}", flush=True)
        number += 1
    print(f"\n{number} runs, {bad} of them wrong" if bad else f"\n{number} runs, nothing is wrong", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(float(words[0]) if words else 600.0, int(words[1]) if len(words) > 1 and words[1] else random.randrange(1 << 32)))
