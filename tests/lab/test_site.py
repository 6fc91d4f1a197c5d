"""One case for real, for a few seconds: its processes, the population, a load, and what is told of it."""

from __future__ import annotations

import pytest

from pileus.lab import costs, metrics
from pileus.lab.cases import BY_NAME
from pileus.lab.ground import TEMPLATE, Ground, Size
from pileus.lab.janitor import swept
from pileus.lab.load import Judge, Load
from pileus.lab.site import Site

TIMEOUT = 30.0
SIMULATED = {"plug": 0.002, "wire": 0.0005, "delete_flow": 0.0001}


@pytest.mark.timeout(240)
async def test_the_storys_path_under_load() -> None:
    """All four changes: agents' turns, RPC, REST both ways; deletes and restarts beside creates."""
    case = BY_NAME["all"]
    with swept() as folder:
        ground = Ground(folder, Size(hosts=4, servers=12, round_trip=0.001, cases=1), SIMULATED)
        ground.start()
        try:
            await ground.lay()
            settings = {"compute.vif_plugging_timeout": TIMEOUT, "network.rpc_workers": 2, "compute.heal_instance_info_cache_interval": 2}
            async with Site(ground, case, TEMPLATE, settings=settings) as site:
                ground.network = await site.make_network()
                await site.populate(10)
                await site.slow_down()
                load = Load(site, Judge(TIMEOUT), lambda _: None)
                await load.start()
                before, begun = await metrics.read(site), await costs.Meter.start(site)
                rung = await load.rung(2.0, 4.0, whole=True)
                figures = metrics.figures(before, await metrics.read(site), seconds=4.0, hosts=4)
                counted = metrics.requests({}, await site.counts(), seconds=60.0, healed=1.0)
                spent = await begun.read()
                assert await load.calm(30)
                assert len(await site.alive()) == 10
        finally:
            ground.stop()
    assert (rung.created, rung.active, rung.error, rung.good) == (8, 8, 0, True)
    assert rung.p99_s is not None
    assert 0.2 < rung.p99_s < 15
    assert rung.steps["wired"] + rung.steps["signalled"] > 0.1  # polling and batches were waited for
    assert figures["rpc_details_s"] > 0.05  # each of them 69 statements, 1 ms away
    assert figures["healed_per_min"] > 0
    assert counted["rest_requests_per_min"] > counted["heal_requests_per_min"] >= 6  # a server is read anew in six
    assert spent.trips["network"] > 8  # compute asked the network service over HTTP
    assert spent.trips["network-rpc"] > 8 * 137
    assert spent.cpu > 0
    assert spent.held["network-rpc"] > 8 * 137 * 0.001  # each of them a round trip that is 1 ms longer
    assert not folder.exists()
