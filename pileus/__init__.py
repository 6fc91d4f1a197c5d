"""Pileus: a VM cloud with OpenStack's APIs in one program."""

__version__ = "0.1.0"
