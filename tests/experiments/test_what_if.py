"""A recorded day simulated again: the same configuration gives the same day, another one what it is."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.build import replayed_dispatcher
from pilothouse.core.errors import ConfigError
from pilothouse.core.events import Role
from pilothouse.core.units import SECOND, Micros
from pilothouse.experiments.what_if import Case, as_recorded, compared, other, recorded_run, simulated_run
from pilothouse.journal.asked import Asked, asked, outcomes
from pilothouse.journal.day import Day, read_day
from pilothouse.journal.learned import learn
from pilothouse.perf.speculation import Method, Speculation
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Pool
from pilothouse.workload.outcomes import Objectives, Run, Summary
from tests.journal.days import DELAYS, TIME, conversations, record

TIMES = {"e": TIME}


def opened(path: Path, **window: Any) -> tuple[Day, Asked]:
    day = read_day(path)
    return day, asked(day, **window)


def again(case: Case, given: Asked) -> Summary:
    return simulated_run(case, given, Objectives(), "day").stages[0].summary


def recorded(day: Day, given: Asked) -> Run:
    return recorded_run(day, given, Objectives(), "Measured", "day")


@pytest.mark.parametrize("policy", ["cache_and_load", "marginal_cost", "random"])
@pytest.mark.parametrize("exact", [True, False])
def test_the_same_configuration_gives_the_same_day(tmp_path: Path, policy: str, exact: bool) -> None:
    """Block for block and microsecond for microsecond, conversations with their answers' blocks included."""
    pools = [Pool("e", 3, EngineSpec(TIME, 900), exact)]
    driver = record(tmp_path, conversations(30), pools=pools, policy=policy)
    day, given = opened(tmp_path)
    assert sorted(outcomes(given), key=lambda o: o.request) == sorted(
        driver.results[0].outcomes, key=lambda o: o.request
    )
    real = recorded(day, given).stages[0].summary
    same = again(as_recorded(day, given, TIMES), given)
    for name in ("requests", "ttft", "tpot", "e2e", "hit_ratio", "achieved_rate", "goodput"):
        assert getattr(same, name) == getattr(real, name), name
    assert real.itl.mean == pytest.approx(same.itl.mean, rel=1e-6) and real.hit_ratio > 0.1


def test_a_day_of_split_requests_can_be_had_again(tmp_path: Path) -> None:
    """Who computed prompts for whom is in the journal; how fast the network was is not, and taken as usual."""
    alike = {"connector": "nixl", "exchange": "x", "kv_token_bytes": 100_000}
    pools = [
        Pool("p", 1, EngineSpec(TIME, 900), True, role=Role.PREFILL, **alike),
        Pool("d", 2, EngineSpec(TIME, 900), True, role=Role.DECODE, **alike),
    ]
    driver = record(tmp_path, conversations(30), pools=pools)
    assert driver.transfers.fetched > 5
    day, given = opened(tmp_path)
    real = recorded(day, given).stages[0].summary
    same = again(as_recorded(day, given, {"p": TIME, "d": TIME}), given)
    for name in ("requests", "ttft", "tpot", "e2e", "hit_ratio"):
        assert getattr(same, name) == getattr(real, name), name


def test_learned_step_times_come_near(tmp_path: Path) -> None:
    record(tmp_path, conversations(60, seed=2))
    day, given = opened(tmp_path)
    (found,) = learn(tmp_path, replayed_dispatcher)
    assert found.pool == "e" and found.step_time.label.startswith("Estimated")
    assert found.decode_error is not None and found.decode_error < 0.05
    assert found.first_error is not None and found.first_error < 0.25
    real = recorded(day, given).stages[0].summary
    same = again(as_recorded(day, given, {"e": found.step_time}), given)
    assert same.tpot.mean == pytest.approx(real.tpot.mean, rel=0.05)
    assert same.ttft.mean == pytest.approx(real.ttft.mean, rel=0.15)
    assert len(compared(real, same)) == 1 and "TTFT mean" in compared(real, same)[0]


def test_what_a_request_takes_beside_its_steps_is_learned_too(tmp_path: Path) -> None:
    record(tmp_path, conversations(60, seed=2), delays=msgspec.structs.replace(DELAYS, network_us=Micros(30_000)))
    day, given = opened(tmp_path)
    (found,) = learn(tmp_path, replayed_dispatcher)
    assert found.step_time.request_us == pytest.approx(60_000, rel=0.15)
    case = as_recorded(day, given, {"e": found.step_time})
    assert case.fleet.delays.network_us == pytest.approx(30_000, rel=0.15)
    real = recorded(day, given).stages[0].summary
    assert again(case, given).ttft.mean == pytest.approx(real.ttft.mean, rel=0.1)


def test_a_simulation_that_is_far_off_says_so(tmp_path: Path) -> None:
    record(tmp_path, conversations(10))
    day, given = opened(tmp_path)
    wrong = StepTime(a_us=20_000, b_us=60, c_ns=50, p_us=40)
    real = recorded(day, given).stages[0].summary
    assert "far off" in compared(real, again(as_recorded(day, given, {"e": wrong}), given))[1]


def test_another_policy_and_another_fleet(tmp_path: Path) -> None:
    record(tmp_path, conversations(40))
    day, given = opened(tmp_path)
    same = again(as_recorded(day, given, TIMES), given)
    (spread,) = other({"policy": "random"}, tmp_path / "x.yaml", day, given, TIMES)
    assert spread.name == "x" and again(spread, given).hit_ratio < same.hit_ratio
    pools = [{"name": "e", "replicas": 1, "model": "qwen3-8b", "gpu": "h100", "kv_blocks": 900}]
    scenario = {"pools": pools, "policies": ["cache_and_load", "kube_service"], "objectives": {"ttft": "1s"}}
    one, none = other(scenario, tmp_path / "x.yaml", day, given, TIMES)
    assert (one.name, none.name) == ("cache_and_load", "kube_service") and one.objectives == Objectives(Micros(SECOND))
    assert one.fleet.pools[0].engine.step_time == TIME  # the recorded pool of that name
    assert again(one, given).ttft.mean > same.ttft.mean
    foreign = other(scenario | {"pools": [pools[0] | {"name": "new"}]}, tmp_path / "x.yaml", day, given, TIMES)
    assert "Estimated" in foreign[0].fleet.pools[0].engine.step_time.label


def test_a_fleet_that_speculates_is_compared_with_one_that_did_not(tmp_path: Path) -> None:
    """Its drafts cost on top of what was learned; of engines that speculated, what was learned has them in it."""
    scenario = {
        "pools": [{"name": "e", "replicas": 3, "model": "qwen3-8b", "gpu": "h100", "kv_blocks": 900}],
        "policies": ["cache_and_load"],
    }
    drafts = {"speculation": {"method": "eagle3", "acceptance": 0.7}}
    speculating = scenario | {"pools": [scenario["pools"][0] | drafts]}  # type: ignore[operator]
    record(tmp_path / "plain", conversations(20))
    day, given = opened(tmp_path / "plain")
    before, after = (other(data, tmp_path / "x.yaml", day, given, TIMES)[0] for data in (scenario, speculating))
    assert after.fleet.pools[0].engine.step_time.a_us > TIME.a_us == before.fleet.pools[0].engine.step_time.a_us
    assert again(after, given).tpot.mean < 0.7 * again(before, given).tpot.mean
    spec = EngineSpec(TIME, 900, speculation=Speculation(Method.NGRAM, 3, 0.5))
    record(tmp_path / "drafts", conversations(20), pools=[Pool("e", 3, spec, exact=True)])
    day, given = opened(tmp_path / "drafts")
    assert other(scenario, tmp_path / "x.yaml", day, given, TIMES)
    with pytest.raises(ConfigError, match=r"pools\[0\].speculation: the recorded engines of this pool speculate"):
        other(speculating, tmp_path / "x.yaml", day, given, TIMES)


def test_what_lies_before_the_window_warms_caches_and_is_in_no_figure(tmp_path: Path) -> None:
    driver = record(tmp_path, conversations(40))
    whole = driver.results[0].outcomes
    begin_us, until_us = 5 * SECOND, 12 * SECOND
    day, given = opened(tmp_path, from_us=begin_us, until_us=until_us)
    inside = [o for o in whole if begin_us <= o.sent_us <= until_us]
    real = recorded(day, given).stages[0].summary
    assert real.requests == len(inside) > 10 and len(given.asks) > len(inside)
    same = again(as_recorded(day, given, TIMES), given)
    assert same.requests == real.requests
    assert same.hit_ratio == pytest.approx(real.hit_ratio) and same.ttft.p50 == real.ttft.p50


def test_what_cannot_be_tried_is_said(tmp_path: Path) -> None:
    record(tmp_path, conversations(5))
    day, given = opened(tmp_path)
    for data, where in (
        ([], "must be a mapping"),
        ({"policy": "nosuch"}, "unknown policy"),
        ({"polcy": "random"}, "unknown field"),
        ({"pools": [{"replicas": 1, "gpu": "h999"}]}, "h999"),
    ):
        with pytest.raises(ConfigError, match=where):
            other(data, tmp_path / "x.yaml", day, given, TIMES)
    with pytest.raises(ConfigError, match="step-time"):
        as_recorded(day, given, {})
