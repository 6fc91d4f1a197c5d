"""What an experiment is to be, and what it goes along with."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pileus.lab import cases, physics
from pileus.lab.calibrate import Calibration
from pileus.lab.cases import Case
from pileus.lab.ground import Ground
from pileus.lab.load import Judge
from pileus.lab.physics import Costs, Prediction, World
from pileus.lab.site import Site

Tell = Callable[[str, str], None]
"""Who (a case, or empty), and what of it is to be shown."""


@dataclass(frozen=True)
class Options:
    """Seconds and counts. None: chosen for the plug timeout. `together`: cases at once, of those whose limit is waiting. `shortened`: what
    is less than it should be, in words for the report."""

    cases: Sequence[str] = tuple(cases.BY_NAME)
    plug_timeout: float = 300.0
    hosts: int | None = None
    servers: int = 400
    round_trip: float = 0.001
    rung: float | None = None
    together: int = 1
    shortened: Sequence[str] = ()

    @property
    def hosts_or_default(self) -> int:
        """A build holds its slot while it waits: with fewer hosts no queue could grow as long as the plug timeout."""
        return self.hosts or max(20, math.ceil(0.7 * self.plug_timeout))

    @property
    def rung_s(self) -> float:
        return self.rung or self.plug_timeout


@dataclass
class Lab:
    """What an experiment goes along with."""

    options: Options
    ground: Ground
    calibration: Calibration
    tell: Tell
    costs: dict[str, Costs] = field(default_factory=dict)
    """Profile → what things cost with it."""
    load_per_s: float = 0.0
    numbers: int = 0

    @property
    def judge(self) -> Judge:
        return Judge(self.options.plug_timeout)

    @property
    def world(self) -> World:
        options = self.options
        return World(
            hosts=options.hosts_or_default,
            servers=options.servers,
            cores=os.cpu_count() or 1,
            plug_timeout_s=options.plug_timeout,
            rung_s=options.rung_s,
            flow_s=self.calibration.flows_of_port(int(cases.value(cases.first(), "simulated.flows_per_port"))),
            wire_s=self.calibration.plug + self.calibration.wire,
        )

    def predict(self, case: Case) -> Prediction:
        return physics.predict(case, self.costs[case.profile], self.world)

    def site(self, case: Case, **settings: Any) -> Site:
        self.numbers += 1
        mine = {"compute.vif_plugging_timeout": self.options.plug_timeout, **settings}
        return Site(self.ground, case, f"case_{self.numbers}", settings=mine)
