"""Engines in two racks: KV goes between those that stand near each other, unless it is quicker to have it computed far off."""

import pytest

from pilothouse.config.policy import profile
from pilothouse.core import handover
from pilothouse.core.commands import Route
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import Role
from pilothouse.core.units import EndpointId
from pilothouse.sim.delays import Delays
from pilothouse.sim.invariants import run_checked
from pilothouse.sim.world import Fleet, Pool, world
from tests.sim.simulated import ENGINE, Told, ask, linked, workload

RACKS = ("a", "b")
KV_BYTES, RATE, FAR = 100_000, 10_000.0, 1_000.0  # of a token, per microsecond: 10 us a token, or 100


def pairs(count: int, every_s: float, decode: tuple[str, ...] = RACKS, far: float = FAR) -> list[tuple[str, str]]:
    """Racks of (prefill, decode) of each request, one after the other."""
    alike = linked(KV_BYTES, RATE)
    pools = [
        Pool(f"{role.value}-{rack}", 1, ENGINE, True, role=role, labels={"rack": rack}, far_bytes_per_us=far, **alike)
        for role, racks in ((Role.PREFILL, RACKS), (Role.DECODE, decode))
        for rack in racks
    ]
    policy = profile({"like": "marginal_cost", "decider": "always"})
    told, settings = Told(), DispatcherSettings(seed=1, strict=True, index_blocks_max=10_000)
    load = workload([ask(f"r{i}", i * every_s, 800, 5, content=i + 1) for i in range(count)])
    run_checked(world(Fleet(pools, Delays()), Dispatcher(settings, policy), load, told))
    return [(_rack(r.prefill.endpoint), _rack(r.endpoint)) for r in told.commands(Route) if r.prefill]


def _rack(endpoint: EndpointId) -> str:
    return endpoint.split("-")[1]


def near(found: list[tuple[str, str]]) -> float:
    return sum(one == other for one, other in found) / len(found)


def test_before_anything_is_known_labels_say_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pairs(1, 0.5, decode=("b",)) == [("b", "b")]
    monkeypatch.setattr(handover, "APART", 1.0)
    assert pairs(1, 0.5, decode=("b",)) == [("a", "b")], "the control: the first of equals"


def test_what_is_near_is_learned_where_labels_promise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "APART", 1.0)
    found = pairs(80, 0.03)
    assert near(found[:15]) < 0.8 and near(found[40:]) > 0.95
    assert near(pairs(80, 0.03, far=RATE)[40:]) < 0.6, "the control: nothing to be learned"


def test_near_is_a_cost_and_no_rule() -> None:
    """When the near engine has more to compute than the way takes, the far one helps."""
    idle, busy = pairs(20, 0.5, decode=("a",)), pairs(80, 0.03, decode=("a",))
    assert near(idle) == 1.0 and 0.6 < near(busy) < 0.9
    assert near(pairs(80, 0.03, decode=("a",), far=RATE)) < 0.6
