"""What is sealed into a token comes out again; nothing else does."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from pileus.identity import tokens
from pileus.identity.keys import Keys
from pileus.identity.tokens import Claims

IDS = st.uuids().map(lambda uid: uid.hex) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


@pytest.fixture(scope="module")
def keys() -> Keys:
    ring = Keys()
    ring.take([{"number": 1, "secret": Fernet.generate_key().decode(), "signs_from": 0.0}])
    return ring


CLAIMS = st.builds(
    Claims,
    user_id=IDS,
    user_epoch=st.integers(0, 1 << 40),
    methods=st.sampled_from([(), ("password",), ("token",), ("password", "token")]),
    scope=st.sampled_from(["project", "domain"]),
    scope_id=IDS,
    issued_at=st.floats(0, 1e11),
    expires_at=st.floats(0, 1e11),
    audit_ids=st.lists(st.builds(tokens.new_audit_id), min_size=1, max_size=2).map(tuple),
)


@given(CLAIMS)
def test_there_and_back(keys: Keys, claims: Claims) -> None:
    assert tokens.unseal(tokens.seal(claims, keys), keys) == claims


def test_an_unscoped_token_has_no_scope_id_and_all_are_short(keys: Keys) -> None:
    claims = Claims("0" * 32, 0, ("password", "token"), "unscoped", None, 1.5, 2.5, (tokens.new_audit_id(), tokens.new_audit_id()))
    sealed = tokens.seal(claims, keys)
    assert tokens.unseal(sealed, keys) == claims
    assert len(tokens.seal(msgspec.structs.replace(claims, scope="project", scope_id="f" * 32), keys)) <= 255


def test_audit_ids_are_22_characters_and_differ() -> None:
    some = {tokens.new_audit_id() for _ in range(100)}
    assert len(some) == 100
    assert {len(each) for each in some} == {22}


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode([b"\0a", 0, 1, 9, b"\0b", 0.0, 1.0, []]), b"\x00" * 900])
def test_a_payload_of_another_form_is_no_token(keys: Keys, payload: bytes) -> None:
    assert tokens.unseal(keys.seal(payload), keys) is None


@given(st.text(max_size=2000))
def test_text_is_no_token(keys: Keys, text: str) -> None:
    assert tokens.unseal(text, keys) is None


def test_a_token_that_was_changed_anywhere_is_none(keys: Keys) -> None:
    sealed = tokens.seal(Claims("u", 0, ("password",), "unscoped", None, 1.0, 2.0, (tokens.new_audit_id(),)), keys)
    for at in range(0, len(sealed) - 1, 7):
        other = "A" if sealed[at] != "A" else "B"
        assert tokens.unseal(sealed[:at] + other + sealed[at + 1 :], keys) is None
