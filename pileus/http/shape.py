"""Small forms that answers share."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(seconds: float | None) -> str | None:
    """2026-11-22T13:00:00Z"""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_micro(seconds: float | None) -> str | None:
    """2026-11-22T13:00:00.000000 (Keystone puts a Z behind it)"""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
