"""A scenario becomes the fleet it describes, and a run that says what it stands on."""

from typing import Any

import msgspec
import pytest

from pilothouse.build import engine_spec, faults, fleet, simulate
from pilothouse.config.scenario_load import Ready, scenario_from_data
from pilothouse.policies.rivals import CACHE_KNOWLEDGE
from pilothouse.sim.admission import FirstChunk, WholePrompt

PLAIN: dict[str, Any] = {
    "name": "plain",
    "pools": [{"name": "a", "replicas": 3, "model": "qwen3-8b", "gpu": "h100"}],
    "workload": {"kind": "open_loop", "rate": 8, "duration": "5s", "prefixes": 2, "prefix_tokens": 512},
    "objectives": {"ttft": "1s"},
}


def ready(**changes: Any) -> Ready:
    return scenario_from_data(PLAIN | changes)


def pool(**changes: Any) -> list[dict[str, Any]]:
    return [PLAIN["pools"][0] | changes]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    given = ready(policies=["cache_and_load"])
    one, same, other = (simulate(given.scenario, given.recipe, "cache_and_load", 1.0, seed) for seed in (1, 1, 2))
    assert msgspec.json.encode(one) == msgspec.json.encode(same)
    assert one.stages != other.stages and (one.name, one.label, one.scenario) == (
        "cache_and_load",
        "Simulated",
        "plain",
    )


def test_a_run_says_what_it_stands_on() -> None:
    given = ready()
    run = simulate(given.scenario, given.recipe, "llmd_default", 1.0, 1)
    text = "\n".join(run.notes)
    assert "goodput counts requests with TTFT within 1 s" in text and "step times Estimated" in text
    assert "llmd_default knows caches from its own routes, and reads load reports every 50 ms" in text


def test_the_fleet_is_as_described() -> None:
    spec = engine_spec(ready(pools=pool(sequences=64, batched_tokens=512, admission="first_chunk")).scenario.pools[0])
    assert (spec.sequences_max, spec.batched_tokens_max, spec.admission) == (64, 512, FirstChunk())
    given = ready(delays={"network": "2ms", "scrape_every": "0s"}, pools=pool(kv_blocks=77, start_up="9s")).scenario
    made = fleet(given)
    assert made.delays.network_us == 2000 and made.delays.scrape_us == 0 and made.pools[0].start_up_us == 9_000_000
    assert made.pools[0].engine.kv_blocks == 77 and made.pools[0].engine.admission == WholePrompt()
    assert made.pools[0].replicas == 3 and made.pools[0].exact and made.tell_blocks


def test_more_memory_holds_more_blocks() -> None:
    blocks = [engine_spec(ready(pools=pool(utilisation=u)).scenario.pools[0]).kv_blocks for u in (0.5, 0.7, 0.9)]
    assert blocks == sorted(set(blocks)) and blocks[0] > 0


@pytest.mark.parametrize("name", sorted(CACHE_KNOWLEDGE))
def test_a_rival_is_given_what_it_has(name: str) -> None:
    knowledge = CACHE_KNOWLEDGE[name]
    made = fleet(ready().scenario, knowledge)
    assert made.pools[0].exact == (knowledge.knows == "precise")
    assert made.tell_blocks == (knowledge.knows != "nothing")
    assert made.delays.scrape_us == knowledge.scrape_us


def test_a_fault_of_a_pool_is_one_of_each_engine() -> None:
    given = ready(faults=[{"kind": "slow", "endpoint": "a", "at": "1s", "lasts": "2s"}]).scenario
    found = faults(given.faults[0], given)
    assert [(fault.endpoint, fault.at_us, fault.until_us) for fault in found] == [
        (f"a-{i}", 1_000_000, 3_000_000) for i in range(3)
    ]


def test_a_slow_fleet_is_slower_and_gateways_are_several() -> None:
    slow = ready(faults=[{"kind": "slow", "endpoint": "a", "factor": 4}])
    plain, several = ready(), ready(gateways=4)
    runs = [simulate(r.scenario, r.recipe, "cache_and_load", 1.0, 1).stages[0].summary for r in (plain, slow, several)]
    assert runs[1].tpot.mean > 2 * runs[0].tpot.mean
    assert runs[2] != runs[0] and runs[2].requests == runs[0].requests


def test_a_policy_may_be_spelled_out() -> None:
    spelled = {"name": "mine", "scorers": [{"type": "queue_depth"}]}
    given = ready(policies=[spelled, "random"])
    assert simulate(given.scenario, given.recipe, spelled, 1.0, 1).name == "mine"


def test_a_pool_that_speculates_is_faster_has_less_room_and_says_so() -> None:
    plain, eagle = ready(), ready(pools=pool(speculation={"method": "eagle3", "acceptance": 0.7}))
    before, after = (engine_spec(given.scenario.pools[0]) for given in (plain, eagle))
    assert after.kv_blocks < before.kv_blocks and after.step_time.a_us > before.step_time.a_us
    assert after.speculation is not None and before.speculation is None
    assert (after.speculation.acceptance, after.speculation.constrained) == (0.7, 0.35)
    one, other = (simulate(given.scenario, given.recipe, "marginal_cost", 1.0, 1) for given in (plain, eagle))
    assert other.stages[0].summary.tpot.mean < 0.7 * one.stages[0].summary.tpot.mean
    assert any("speculation eagle3 of 3 tokens, acceptance 0.70 (given)" in note for note in other.notes)


def test_bound_requests_take_longer_where_engines_speculate() -> None:
    spec = PLAIN["workload"] | {"constrained": 1.0}
    speculation = {"method": "ngram", "draft_tokens": 5, "work": "code"}
    free, bound = (
        ready(pools=pool(speculation=speculation), workload=workload) for workload in (PLAIN["workload"], spec)
    )
    one, other = (simulate(given.scenario, given.recipe, "marginal_cost", 1.0, 1) for given in (free, bound))
    assert other.stages[0].summary.tpot.mean > 1.5 * one.stages[0].summary.tpot.mean
