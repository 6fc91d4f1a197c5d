"""The one MetaData that every service's tables.py registers with, and the column types they share."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import JSON, BigInteger, Column, Double, MetaData, String, Text

metadata = MetaData()

Json = JSON(none_as_null=True)
Time = Double
"""Unix seconds."""
Big = BigInteger


def uid(name: str, **kw: Any) -> Column[str]:
    """A column for one of our ids."""
    return Column(name, String(64), **kw)


def text(name: str, **kw: Any) -> Column[str]:
    return Column(name, Text, **kw)


def json_dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()


json_loads = msgspec.json.decode
