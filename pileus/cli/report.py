"""`pileus lab report`: the page of what an earlier run wrote as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pileus.errors import StartupError
from pileus.lab import report, stormreport
from pileus.lab.results import Experiment
from pileus.lab.storm import Storm


def run(file: Path, html: Path) -> None:
    """Raises StartupError: the file is not there, or is none of ours."""
    try:
        html.write_text(page(file.read_bytes()))
    except OSError as error:
        raise StartupError(f"{error.filename}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise StartupError(f"{file} is not what `pileus lab story` or `pileus lab storm` writes with --json: {error}") from None


def page(text: bytes) -> str:
    """Of an experiment or of a storm. Raises msgspec.MsgspecError."""
    told = msgspec.json.decode(text)
    if isinstance(told, dict) and "wish" in told:
        return stormreport.render(msgspec.convert(told, Storm))
    return report.render(msgspec.convert(told, Experiment))
