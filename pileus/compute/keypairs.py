"""Keypairs: a user's SSH keys. The private half of one that was generated is told once and kept nowhere."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import and_, func, select

from pileus.compute.quotas import limits
from pileus.compute.tables import keypairs
from pileus.errors import BadRequest, Conflict, NotFound, QuotaExceeded
from pileus.settings import Quota
from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row, first, insert_new

KEY_BITS = 2048


def generate() -> tuple[str, str]:
    """A new RSA key: private half (PEM), public half (OpenSSH's form). Takes a tenth of a second or more of CPU."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} Generated-by-Pileus"


def fingerprint(public_key: str) -> str:
    """MD5 of the key's data in hex pairs, as Nova shows it. Raises BadRequest for what is no SSH public key."""
    try:
        serialization.load_ssh_public_key(public_key.encode())
        data = base64.b64decode(public_key.split()[1])
    except (ValueError, IndexError, binascii.Error, UnsupportedAlgorithm):
        raise BadRequest("Keypair data is invalid: failed to generate fingerprint; expected one line of an OpenSSH public key") from None
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def create(tx: Tx, defaults: Quota, *, user_id: str, project_id: str, name: str, public_key: str, mark: str) -> Row:
    """Write a public key down; `mark` is its fingerprint. Raises Conflict where the user has the name, QuotaExceeded."""
    allowed = limits(tx, defaults, project_id)["key_pairs"]
    count = tx.execute(select(func.count()).select_from(keypairs).where(keypairs.c.user_id == user_id)).scalar_one()
    if 0 <= allowed <= count:
        raise QuotaExceeded("Quota exceeded, too many key pairs.")
    row = {"user_id": user_id, "name": name, "type": "ssh", "public_key": public_key, "fingerprint": mark, "created_at": time.time()}
    if not insert_new(tx, keypairs, row):
        raise Conflict(f"Key pair '{name}' already exists.")
    return row


def get(tx: Tx, user_id: str, name: str) -> Row:
    """Raises NotFound."""
    row = first(tx, select(keypairs).where(keypairs.c.user_id == user_id, keypairs.c.name == name))
    if row is None:
        raise NotFound(f"Keypair {name} not found for user {user_id}")
    return row


def page(tx: Tx, user_id: str, wanted: Page) -> list[Row]:
    """A user's keys by name; the marker is a name."""
    statement = select(keypairs).where(keypairs.c.user_id == user_id)
    return fetch(tx, statement, wanted, id_column=keypairs.c.name, sortable={"name": keypairs.c.name})


def delete(tx: Tx, user_id: str, name: str) -> None:
    """Raises NotFound."""
    which = and_(keypairs.c.user_id == user_id, keypairs.c.name == name)
    if tx.execute(keypairs.delete().where(which)).rowcount == 0:
        raise NotFound(f"Keypair {name} not found for user {user_id}")
