"""The simulated decision is the deployed decision: one day through both, and nothing may differ.

The deployed stack runs with real requests, tokens, hashes, streams, scrapes and KV events; the simulator with planned
ones. With equal delays each route goes to the same engine at the same microsecond for the same reasons, down to every
score and the age of every report, and each client sees its first and last token at the same microsecond.
"""

from collections import Counter

import pytest

from pilothouse.core.commands import Reject
from rig.virtual.clients import Ask, asks
from tests.parity.parity import NETWORK_US, POLICIES, SCRAPES, config, decisions, engines, history, lived, simulated


def busy(seed: int) -> list[Ask]:
    """More than three small engines can do at once."""
    return asks(engines(), 80, seed, seconds=0.5)


@pytest.mark.parametrize(("policy", "seed"), [*((name, 11) for name in POLICIES), ("marginal_cost", 12)])
def test_the_simulated_decision_is_the_deployed_decision(policy: str, seed: int) -> None:
    made_with = config(POLICIES[policy], signals=SCRAPES, seed=seed)
    day = busy(seed)
    live = lived(made_with, day)
    sim = simulated(made_with, day, live.scrape_us)
    assert decisions(sim) == decisions(live)
    assert sim.got == live.got
    assert history(sim) == history(live)


def test_such_a_day_has_queues_and_evictions() -> None:
    made_with = config(signals=SCRAPES)
    live = lived(made_with, busy(11))
    kinds = Counter(type(event).__name__ for event, _ in live.pairs)
    assert kinds["BlocksRemoved"] > 20 and kinds["LoadReported"] > 10
    assert sum("waited" in route.why.note for _, route in decisions(live)) > 5
    assert len({route.endpoint for _, route in decisions(live)}) == 3
    assert not any(isinstance(command, Reject) for _, commands in live.pairs for command in commands)


def test_another_delay_differs() -> None:
    """The controls: a microsecond on the way to an engine is seen, and so is another policy."""
    made_with = config(signals=SCRAPES)
    day = busy(11)
    live = lived(made_with, day)
    assert decisions(simulated(made_with, day, live.scrape_us, network_us=NETWORK_US + 1)) != decisions(live)
    other = config("cache_and_load", signals=SCRAPES)
    assert decisions(simulated(other, day, live.scrape_us)) != decisions(live)
