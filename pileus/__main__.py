"""`python -m pileus` is the command `pileus`."""

from pileus.cli.main import run

run()
