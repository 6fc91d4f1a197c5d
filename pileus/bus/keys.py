"""Who may do what on the bus, signed offline: NATS keys and JWTs (version 2, algorithm ed25519-nkey).

An operator signs the account, the account signs its users. The server holds the operator's JWT and the account's, so a new user needs
nothing of it. Facts: the claims are those of NATS' jwt library, version 2, as nats-server 2.9 reads them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import nkeys

from pileus.messages import token

OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
USER = nkeys.PREFIX_BYTE_USER

NO_LIMITS = {"subs": -1, "data": -1, "payload": -1}


class Key:
    """One key pair. `seed` is the secret, `public` the name that others know it by."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._pair = nkeys.from_seed(seed)
        self.public: str = self._pair.public_key.decode()

    @classmethod
    def new(cls, kind: int) -> Key:
        return cls(nkeys.encode_seed(os.urandom(32), kind))

    def sign(self, data: bytes) -> bytes:
        return bytes(self._pair.sign(data))


def operator_jwt(operator: Key) -> str:
    return _signed(operator, operator.public, "pileus", {"type": "operator"})


def account_jwt(operator: Key, account: Key, revoked: Mapping[str, int]) -> str:
    """The account of a cloud; `revoked`: public keys of users → the time (Unix s) until which what was signed for them is void."""
    limits = {**NO_LIMITS, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": 0}
    return _signed(operator, account.public, "pileus", {"type": "account", "limits": limits, "revocations": dict(revoked)})


def control_jwt(account: Key, user: Key) -> str:
    """A user of the control plane: it may say and hear everything in the account."""
    return _signed(account, user.public, "control plane", {"type": "user", **NO_LIMITS})


def host_jwt(account: Key, user: Key, name: str, *, hollow: bool, expires: float | None) -> str:
    """A host: it may speak as itself, its two sides with one another, and hear what is said to itself. `expires`: Unix time (s), or never.

    `hollow`: as any host. An answer needs leave for the control plane's inboxes: the words there are guessed by nobody. It is no leave "to
    answer" in NATS' sense (`resp`), for a host that may also speak to itself could give itself any subject to answer to.
    """
    own, who = token(name), "*" if hollow else token(name)
    claims = {
        "type": "user",
        **NO_LIMITS,
        "pub": {"allow": [f"from.{who}.>", f"host.{who}.agent.>", f"host.{who}.holdings", f"_INBOX_{own}.>", "_INBOX.>"]},
        "sub": {"allow": [f"host.{who}.>", f"_INBOX_{own}.>"]},
    }
    return _signed(account, user.public, name, claims, expires)


def credentials(jwt: str, user: Key) -> bytes:
    """A credentials file, as every NATS client reads it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    ).encode()


def _signed(issuer: Key, subject: str, name: str, claims: Mapping[str, Any], expires: float | None = None) -> str:
    body: dict[str, Any] = {"iat": int(time.time()), "iss": issuer.public, "name": name, "sub": subject, "nats": {**claims, "version": 2}}
    if expires is not None:
        body["exp"] = int(expires)
    body["jti"] = base64.b32encode(hashlib.sha256(msgspec.json.encode(body)).digest()).decode().rstrip("=")
    parts = [_base64(msgspec.json.encode(part)) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    return ".".join([*parts, _base64(issuer.sign(".".join(parts).encode()))])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
