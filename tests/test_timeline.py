from __future__ import annotations

from pileus.timeline import STEPS, critical, spans

STAMPS = {
    "accepted": 10.000,
    "queued": 10.001,
    "claimed": 10.003,
    "addressed": 10.006,
    "sent": 10.008,
    "image": 10.009,
    "plugged": 10.012,
    "wired": 10.015,
    "signalled": 10.015,
    "paused": 10.050,
    "resumed": 10.051,
    "reported": 10.053,
}


def test_each_step_starts_when_the_last_one_before_it_was_done() -> None:
    found = {span.step: span for span in spans(STAMPS, "h1")}
    assert found["paused"].start == STAMPS["image"]
    assert found["wired"].start == STAMPS["plugged"]
    assert found["resumed"].start == STAMPS["paused"]
    assert found["paused"].where == "host h1"
    assert round(found["paused"].seconds, 3) == 0.041


def test_the_critical_chain_names_what_decided() -> None:
    chain = [span.step for span in critical(spans(STAMPS))]
    assert chain == ["accepted", "queued", "claimed", "addressed", "sent", "image", "paused", "resumed", "reported"]


def test_unknown_steps_and_none_at_all() -> None:
    assert spans({"strange": 1.0}) == []
    assert critical([]) == []


def test_every_step_follows_known_ones() -> None:
    assert all(name in STEPS for step in STEPS.values() for name in step.after)
