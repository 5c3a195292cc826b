"""The world around the engines: who asks when, which gateway hears, and what is told of it afterwards."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.commands import Route
from pilothouse.core.events import Arrived, BlocksStored, Finished, LoadReported
from pilothouse.core.units import SECOND, Micros
from pilothouse.sim.agenda import Agenda, Rank
from pilothouse.sim.delays import Delays
from pilothouse.sim.invariants import run_checked
from pilothouse.sim.world import stage_runs, summaries
from pilothouse.workload.outcomes import Objectives, Outcome
from tests.sim.simulated import ENGINE, ask, dispatcher, fault, many, small, workload


def by_name(driver: object) -> dict[str, Outcome]:
    return {o.request: o for result in driver.results for o in result.outcomes}  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(Rank))), max_size=40))
@settings(max_examples=50, deadline=None)
def test_one_moment_has_one_order(entries: list[tuple[int, Rank]]) -> None:
    """By time, then rank, then the order in which they were put in; also those put in meanwhile."""
    agenda, done = Agenda(), list[tuple[int, Rank, int]]()
    for i, (at_us, rank) in enumerate(entries):
        agenda.push(at_us, rank, done.append, (at_us, rank, i))
    while agenda.advance():
        assert agenda.now_us == done[-1][0]
    assert done == sorted(done) and len(done) == len(entries)


def test_time_does_not_go_back() -> None:
    agenda = Agenda()
    agenda.push(5, Rank.TELL, lambda _: agenda.push(4, Rank.TELL, print, None), None)
    agenda.advance()
    with pytest.raises(AssertionError, match="time went back"):
        agenda.run()


# Who asks when


def test_a_follower_is_sent_so_long_after_the_end() -> None:
    chain = [ask("a"), ask("b", 0.7, after="a"), ask("c", 0.0, after="b"), ask("d", 2.0, after="a")]
    driver, _ = small(workload(chain, [ask("next")], pause_s=1.5))
    run_checked(driver)
    found = by_name(driver)
    assert found["b"].sent_us == found["a"].end_us + 700_000 and found["c"].sent_us == found["b"].end_us
    assert found["d"].sent_us == found["a"].end_us + 2_000_000
    assert found["next"].sent_us == max(found["c"].end_us, found["d"].end_us) + 1_500_000


def test_a_follower_is_sent_also_after_a_refusal_and_after_a_break() -> None:
    too_long = ask("a", 0.0, 20_000, 5)
    broken = ask("c", 0.0, 320, 100, content=2)
    requests = [too_long, ask("b", 0.1, after="a"), broken, ask("d", 0.2, after="c")]
    driver, told = small(workload(requests), engines=1, faults=[fault("crash", "e-0", 0.5)])
    run_checked(driver)
    found = by_name(driver)
    assert (found["a"].error, found["c"].error) == ("too_long", "broken")
    assert found["b"].sent_us == found["a"].end_us + 100_000 and not found["b"].refused
    assert found["d"].sent_us == found["c"].end_us + 200_000 and not found["d"].refused
    assert told.events(Finished)[0].output_tokens is None  # an answer, though not one with tokens


def test_a_follower_of_nobody_is_a_mistake() -> None:
    driver, _ = small(workload([ask("b", after="a")]))
    with pytest.raises(AssertionError, match="follows a"):
        driver.run()


def test_the_ttft_counts_from_the_scheduled_send_time() -> None:
    delays = Delays(client_us=Micros(3_000), tokenise_us=Micros(2_000), network_us=Micros(0))
    plain, _ = small(workload([ask("r", 1.0, 1_600)]), delays=Delays(network_us=Micros(0)))
    late, told = small(workload([ask("r", 1.0, 1_600)]), delays=delays)
    plain.run()
    late.run()
    assert told.events(Arrived)[0].at_us == SECOND + 3_000 + 3_200
    assert by_name(late)["r"].sent_us == SECOND
    assert by_name(late)["r"].ttft_us == by_name(plain)["r"].ttft_us + 6_200


def test_a_long_prompt_is_overtaken_while_it_is_tokenised() -> None:
    delays = Delays(tokenise_us=Micros(10_000))
    driver, told = small(workload([ask("long", 0.0, 8_000), ask("short", 0.01, 160)]), delays=delays)
    run_checked(driver)
    assert [e.request for e in told.events(Arrived)] == ["short", "long"]


# Gateways


def test_gateways_take_turns_and_keep_their_conversations() -> None:
    requests = [ask(f"r{i}", i * 0.1, session=7 if i % 3 == 0 else 0, content=i) for i in range(12)]
    driver, _ = small(workload(requests), gateways=3)
    at: dict[str, int] = {}
    while driver.advance():
        at |= {flight.planned.request: flight.gateway for flight in driver.flights.values()}
    assert [at[f"r{i}"] for i in range(0, 12, 3)] == [7 % 3] * 4
    assert [at[f"r{i}"] for i in range(12) if i % 3] == [i % 3 for i in range(12) if i % 3]


def test_every_gateway_hears_every_engine_and_knows_only_its_own_requests() -> None:
    driver, told = small(many(30, 1, sessions=0), gateways=2)
    run_checked(driver)
    stored = [(e.at_us, e.endpoint, tuple(e.blocks)) for e in told.events(BlocksStored)]
    assert stored and all(stored.count(each) == 2 for each in stored)
    assert len(told.events(Arrived)) == 30
    reports = [e.at_us % 200_000 for e in told.events(LoadReported)]
    assert sorted(dict.fromkeys(reports)) == [5_000, 105_000]  # they do not scrape at one moment


def test_gateways_that_do_not_know_of_each_other_choose_worse() -> None:
    """The law that makes several gateways worth simulating: one ledger balances at least as well as four."""
    requests = [ask(f"r{i}", i * 0.02, 640, 50, content=i) for i in range(120)]
    means = []
    for gateways in (1, 4):
        driver, _ = small(workload(requests), engines=4, gateways=gateways, exact=False)
        driver.run()
        means.append(summaries(driver.results)[0].ttft.mean)
    assert means[0] <= means[1]


# Engines


@pytest.mark.parametrize("exact", [False, True])
def test_without_a_prefix_cache_nothing_is_reused_or_reported(exact: bool) -> None:
    requests = [ask(f"r{i}", i * 0.5) for i in range(4)]
    cold = msgspec.structs.replace(ENGINE, prefix_cache=False)
    driver, told = small(workload(requests), engines=1, engine=cold, exact=exact)
    run_checked(driver)
    assert [o.cached_tokens for o in driver.results[0].outcomes] == [0] * 4 and not told.events(BlocksStored)
    warm, _ = small(workload(requests), engines=1, exact=exact)
    warm.run()
    assert [o.cached_tokens for o in warm.results[0].outcomes] == [0, 304, 304, 304]


# What is told of it


def test_samples_are_bounded_evenly_spaced_and_change_nothing() -> None:
    requests = [ask(f"r{i}", i * 0.3, content=i, output=100) for i in range(60)]  # far longer than the stage's second
    plain, plain_told = small(workload(requests))
    watched, told = small(workload(requests), samples_max=16)
    plain.run()
    watched.run()
    assert told.digest() == plain_told.digest()
    samples = watched.results[0].samples
    assert len(samples) % 2 == 0 and 8 <= len(samples) // 2 <= 16
    moments = [sample.at_s for sample in samples[::2]]
    steps = [b - a for a, b in pairwise(moments)]
    assert min(steps) == pytest.approx(max(steps)) and moments[-1] > 15
    assert {sample.endpoint for sample in samples} == {"e-0", "e-1"}
    assert max(sample.running for sample in samples) >= 1 and max(sample.kv_used_ratio for sample in samples) > 0


def test_runs_hold_every_tenant_with_its_own_service_level() -> None:
    load = many(40, 2, tenants=2)
    driver, _ = small(load, samples_max=8)
    run_checked(driver)
    strict, none = Objectives(ttft_us=Micros(1)), Objectives()
    (run,) = stage_runs(driver, none, {"t1": strict})
    assert list(run.tenants) == sorted(run.tenants, key=list(run.tenants).index) and set(run.tenants) == {"t0", "t1"}
    parts = run.tenants.values()
    assert sum(part.requests for part in parts) == run.summary.requests == 40
    assert run.tenants["t1"].goodput == 0 < run.tenants["t0"].goodput
    good = run.tenants["t0"].goodput * run.tenants["t0"].seconds
    assert run.summary.goodput * run.summary.seconds == pytest.approx(good)
    assert run.summary.itl.mean > 0 and run.summary.label == "Simulated"
    assert sum(moment.sent for moment in run.timeline) == 40 and run.replicas and not run.notes
    assert msgspec.json.decode(msgspec.json.encode(run), type=type(run)) == run


def test_runs_say_who_was_not_served_and_one_tenant_is_no_news() -> None:
    driver, _ = small(workload([ask("a"), ask("b", 0.0, 20_000)]))
    driver.run()
    (run,) = stage_runs(driver)
    assert run.notes == ["1 requests were not served: too_long"] and not run.tenants and not run.replicas


def test_stages_that_only_warm_up_are_not_reported() -> None:
    load = workload([ask("a")], [ask("b")])
    warm = msgspec.structs.replace(load.stages[0], reported=False)
    driver, _ = small(msgspec.structs.replace(load, stages=[warm, load.stages[1]]))
    driver.run()
    assert [run.name for run in stage_runs(driver)] == ["stage 1"] and len(summaries(driver.results)) == 1


def test_what_is_told_is_enough_to_decide() -> None:
    """A dispatcher without any world around it, told the same, commands the same: nothing else has been read."""
    driver, told = small(many(60, 3, stages=2), engines=3, faults=[fault("crash", "e-1", 1.0)])
    run_checked(driver)
    alone = dispatcher()
    assert [alone.handle(event) for event, _ in told.pairs] == [commands for _, commands in told.pairs]
    assert told.commands(Route)
