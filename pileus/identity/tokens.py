"""A token's content: what is sealed into it, and back.

msgpack of an array, ids as 16 bytes where they are UUIDs, so that a token stays under 255 characters as Keystone's do.
"""

from __future__ import annotations

import base64
import secrets
from typing import Literal

import msgspec

from pileus.identity.keys import Keys

ScopeKind = Literal["unscoped", "project", "domain"]

METHODS = ("password", "token")
"""By bit, the lowest first."""
MAX_LENGTH = 1024
_KINDS: tuple[ScopeKind, ...] = ("unscoped", "project", "domain")


class Claims(msgspec.Struct, frozen=True):
    """Who a token is for and what for. Times are Unix seconds; `audit_ids`: its own, then that of the first of its line."""

    user_id: str
    user_epoch: int
    methods: tuple[str, ...]
    scope: ScopeKind
    scope_id: str | None
    issued_at: float
    expires_at: float
    audit_ids: tuple[str, ...]


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    user_id: bytes
    user_epoch: int
    methods: int
    scope: int
    scope_id: bytes
    issued_at: float
    expires_at: float
    audit_ids: tuple[bytes, ...]


def new_audit_id() -> str:
    return _audit_text(secrets.token_bytes(16))


def seal(claims: Claims, keys: Keys) -> str:
    packed = _Packed(
        _pack(claims.user_id),
        claims.user_epoch,
        sum(1 << METHODS.index(name) for name in claims.methods),
        _KINDS.index(claims.scope),
        _pack(claims.scope_id or ""),
        claims.issued_at,
        claims.expires_at,
        tuple(base64.urlsafe_b64decode(text + "==") for text in claims.audit_ids),
    )
    return keys.seal(msgspec.msgpack.encode(packed))


def unseal(token: str, keys: Keys) -> Claims | None:
    """None for what is no token of ours. Says nothing of whether it is still good."""
    payload = keys.unseal(token) if len(token) <= MAX_LENGTH else None
    if payload is None:
        return None
    try:
        packed = msgspec.msgpack.decode(payload, type=_Packed)
        kind = _KINDS[packed.scope]
    except (msgspec.MsgspecError, IndexError):
        return None  # sealed by another version of Pileus
    return Claims(
        _unpack(packed.user_id),
        packed.user_epoch,
        tuple(name for bit, name in enumerate(METHODS) if packed.methods >> bit & 1),
        kind,
        _unpack(packed.scope_id) or None,
        packed.issued_at,
        packed.expires_at,
        tuple(_audit_text(raw) for raw in packed.audit_ids),
    )


def _audit_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _pack(uid: str) -> bytes:
    try:
        raw = bytes.fromhex(uid)
    except ValueError:
        raw = b""
    return b"\1" + raw if len(raw) == 16 and raw.hex() == uid else b"\0" + uid.encode()


def _unpack(packed: bytes) -> str:
    return packed[1:].hex() if packed[:1] == b"\1" else packed[1:].decode()
