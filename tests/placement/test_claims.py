"""Whatever is claimed, changed and given back in whatever order: usage is the sum of the allocations, and never over inventory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection, create_engine, select

from pileus.clients.placement import Inventory
from pileus.errors import Conflict
from pileus.placement import claims, providers
from pileus.placement.tables import allocations, consumers, inventories
from pileus.store.schema import metadata

PROVIDERS = ("p1", "p2", "p3")
CLASSES = ("VCPU", "MEMORY_MB", "DISK_GB")

consumer_ids = st.sampled_from([f"c{i}" for i in range(5)])
amounts = st.dictionaries(st.sampled_from(CLASSES), st.integers(1, 6), min_size=1)
wanted = st.dictionaries(st.sampled_from(PROVIDERS), amounts, max_size=2)


class Claims(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = create_engine("sqlite://")
        self.connection = self.engine.connect()
        metadata.create_all(self.connection)
        self.model: dict[str, dict[str, dict[str, int]]] = {}
        inventory = {
            "VCPU": Inventory(4, allocation_ratio=2.0),
            "MEMORY_MB": Inventory(12, reserved=2, min_unit=2, step_size=2),
            "DISK_GB": Inventory(10, max_unit=5),
        }
        for name in PROVIDERS:
            providers.tell(self.connection, name, name, inventory)
        self.connection.commit()

    def teardown(self) -> None:
        self.connection.close()
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        try:
            yield self.connection
            self.connection.commit()
        finally:
            self.connection.rollback()

    @rule(consumer=consumer_ids, provider=st.sampled_from(PROVIDERS), resources=amounts)
    def claim(self, consumer: str, provider: str, resources: dict[str, int]) -> None:
        could = self.room(provider, resources, besides={consumer})
        same = self.model.get(consumer) == {provider: resources}
        try:
            with self.transaction() as tx:
                claims.claim(tx, consumer, provider, resources, project_id="p", user_id="u")
        except claims.DoesNotFit:
            assert not could and not same
        else:
            assert could
            self.model[consumer] = {provider: resources}

    @rule(changes=st.dictionaries(consumer_ids, wanted, min_size=1, max_size=3))
    def replace(self, changes: dict[str, dict[str, dict[str, int]]]) -> None:
        try:
            with self.transaction() as tx:
                claims.replace(tx, [claims.Wanted(consumer, "p", "u", resources) for consumer, resources in changes.items()])
        except claims.DoesNotFit:
            return
        self.model |= changes
        self.model = {consumer: held for consumer, held in self.model.items() if held}

    @rule(consumer=consumer_ids)
    def release(self, consumer: str) -> None:
        with self.transaction() as tx:
            assert claims.release(tx, consumer) == (consumer in self.model)
        self.model.pop(consumer, None)

    @rule(consumer=consumer_ids, resources=wanted, off=st.sampled_from([-1, 1, None]))
    def refuse_an_old_generation(self, consumer: str, resources: dict[str, dict[str, int]], off: int | None) -> None:
        row = self.connection.execute(select(consumers.c.generation).where(consumers.c.id == consumer)).first()
        self.connection.rollback()
        if (row is None) == (off is None):
            return
        stale = None if off is None else (row.generation if row else 5) + off
        try:
            with self.transaction() as tx:
                claims.replace(tx, [claims.Wanted(consumer, "p", "u", resources, guarded=True, generation=stale)])
        except Conflict as error:
            assert error.kind == claims.CONCURRENT_UPDATE
        else:
            raise AssertionError("a stale generation was taken")

    @invariant()
    def the_rows_are_the_model(self) -> None:
        assert claims.held_by(self.connection, [f"c{i}" for i in range(5)]) == self.model
        assert claims.consumer_ids(self.connection) == set(self.model)

    @invariant()
    def usage_is_the_sum_of_the_allocations_and_never_over_inventory(self) -> None:
        sums: Counter[tuple[str, str]] = Counter()
        for row in self.connection.execute(select(allocations)):
            sums[row.provider_id, row.resource_class] += row.used
        for row in self.connection.execute(select(inventories)):
            assert row.used == sums[row.provider_id, row.resource_class]
            assert 0 <= row.used <= row.capacity

    def room(self, provider: str, resources: dict[str, int], besides: set[str]) -> bool:
        limits = {"VCPU": 8, "MEMORY_MB": 10, "DISK_GB": 10}
        for name, amount in resources.items():
            used = sum(held.get(provider, {}).get(name, 0) for consumer, held in self.model.items() if consumer not in besides)
            if used + amount > limits[name] or (name == "MEMORY_MB" and amount % 2) or (name == "DISK_GB" and amount > 5):
                return False
        return True


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
