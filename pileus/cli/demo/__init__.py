"""`pileus demo`: a throw-away cloud with two servers, and the proofs that it did what it says."""

from pileus.cli.demo.run import run

__all__ = ["run"]
