"""The ledger: charged when a request is routed, given back at its first token and at its end, whatever end that is."""

import pytest

from pilothouse.core.events import AnyEvent, FailureKind
from tests.core.worlds import World, arrived, cancelled, failed, finished, first_token, given, probed, route, seen

ENDS = [finished("r"), cancelled("r"), failed("r", sent=True), failed("r", FailureKind.BROKEN, sent=True)]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("streams", [True, False])
def test_every_end_gives_everything_back(end: AnyEvent, streams: bool) -> None:
    world = given("a").when(arrived("r", 500, stream=streams)).ledger(a=(500, 1))
    if streams:
        world.when(first_token("r")).ledger(a=(0, 1))
    world.when(end).ledger(a=(0, 0))
    assert not world.dispatcher.requests


@pytest.mark.parametrize("end", ENDS)
def test_an_end_before_the_first_token_gives_everything_back(end: AnyEvent) -> None:
    given("a").when(arrived("r", 500)).when(end).ledger(a=(0, 0))


def test_only_what_is_not_cached_is_charged() -> None:
    world = given("a cached=p:10").when(arrived("r", prompt="p:30"))
    world.expect(route("r", "a", cached_tokens=160)).ledger(a=(321, 1))


def test_another_attempt_moves_the_charge() -> None:
    world = given("a | b").when(arrived("r", 500)).ledger(a=(500, 1), b=(0, 0))
    world.when(failed("r", FailureKind.ERROR)).ledger(a=(0, 0), b=(500, 1))


def test_a_second_first_token_changes_nothing() -> None:
    given("a").when(arrived("r", 500), first_token("r"), first_token("r")).ledger(a=(0, 1))


def learned(fleet: str = "a") -> World:
    """An engine known to compute 1 token per millisecond."""
    world = given(fleet).when(arrived("teacher", 1000)).after(s=1).when(first_token("teacher"), finished("teacher"))
    assert world.endpoint("a").prefill_rate == pytest.approx(0.001)
    return world


def test_a_prefill_nobody_sees_is_given_back_when_it_should_be_over() -> None:
    world = learned().when(arrived("r", 500, stream=False)).ledger(a=(500, 1))
    world.after(ms=499).when(probed("a", True)).ledger(a=(500, 1))
    world.after(ms=1).when(probed("a", True)).ledger(a=(0, 1))
    world.when(finished("r")).ledger(a=(0, 0))


def test_unseen_prefills_queue_behind_each_other() -> None:
    world = learned().when(arrived("r", 500, stream=False), arrived("s", 500, stream=False))
    world.after(ms=600).when(probed("a", True)).ledger(a=(500, 2))
    world.after(ms=400).when(probed("a", True)).ledger(a=(0, 2))


def test_an_unknown_rate_holds_an_unseen_prefill_to_the_end() -> None:
    given("a").when(arrived("r", 500, stream=False)).after(s=600).when(probed("a", True)).ledger(a=(500, 1))


def test_a_moved_request_is_not_given_back_when_its_first_engine_would_have_been_done() -> None:
    world = learned("a | b ejected").when(arrived("r", 500, stream=False)).expect(route("r", "a"))
    world.after(s=0.1).when(seen("c")).when(failed("r", FailureKind.ERROR)).expect(route("r", "c", attempt=2))
    world.after(s=1).when(probed("a", True)).ledger(a=(0, 0), c=(500, 1))


def test_the_rate_is_a_moving_average_and_short_prefills_do_not_count() -> None:
    world = learned().when(arrived("r", 1000)).after(ms=500).when(first_token("r"))
    assert world.endpoint("a").prefill_rate == pytest.approx(0.8 * 0.001 + 0.2 * 0.002)
    world.when(arrived("s", 63)).after(s=1).when(first_token("s"))
    assert world.endpoint("a").prefill_rate == pytest.approx(0.0012)


def test_the_rate_counts_what_was_queued_before() -> None:
    world = given("a").when(arrived("r", 1000), arrived("s", 1000)).after(s=2).when(first_token("s"))
    assert world.endpoint("a").prefill_rate == pytest.approx(0.001)


@pytest.mark.parametrize("end", ENDS)
def test_the_whole_prompt_is_context_until_the_end(end: AnyEvent) -> None:
    world = given("a cached=p:10").when(arrived("r", prompt="p:30")).contexts(a=(481, 0)).ledger(a=(321, 1))
    world.when(first_token("r")).contexts(a=(481, 1)).when(end).contexts(a=(0, 0))
    world.when(arrived("s", 70)).contexts(a=(70, 0)).when(finished("s")).contexts(a=(0, 0))


def test_an_unseen_first_token_counts_as_decoding_when_it_should_be_there() -> None:
    world = learned().when(arrived("r", 500, stream=False)).after(ms=499).when(probed("a", True)).contexts(a=(500, 0))
    world.after(ms=1).when(probed("a", True)).contexts(a=(500, 1)).when(finished("r")).contexts(a=(0, 0))


def test_a_beginning_that_several_share_is_one_context() -> None:
    world = given("a cached=p:10")
    for request in "rst":
        world.when(arrived(request, prompt="p:10", tokens=200))  # 160 of 200 are there
    assert (world.endpoint("a").context_tokens, world.endpoint("a").distinct_tokens) == (600, 280)
    world.when(finished("r"))
    assert (world.endpoint("a").context_tokens, world.endpoint("a").distinct_tokens) == (400, 240)
    world.when(cancelled("s"), failed("t", sent=True))
    assert world.endpoint("a").distinct_tokens == 0 and not world.dispatcher.fleet._shared


def test_another_attempt_moves_the_context() -> None:
    world = given("a | b").when(arrived("r", 500), failed("r", FailureKind.ERROR))
    world.contexts(a=(0, 0), b=(500, 0)).when(first_token("r")).contexts(b=(500, 1))


def test_the_decision_that_brought_a_cold_prompt_is_remembered() -> None:
    world = given("a cached=p:10 | b", "least_requests")  # nothing was decided yet
    start = world.dispatcher.decisions
    assert [world.endpoint(name).cold_turn for name in "ab"] == [-1, -1]
    world.when(arrived("warm", prompt="p:30"))  # a holds some of it: warm, wherever it goes
    assert [world.endpoint(name).cold_turn for name in "ab"] == [-1, -1]
    world.when(arrived("cold", prompt="q:30")).expect(route("cold", "b"))
    assert [world.endpoint(name).cold_turn for name in "ab"] == [-1, start + 1]
    world.when(failed("cold", FailureKind.ERROR)).expect(route("cold", "a"))  # another attempt is another decision
    assert [world.endpoint(name).cold_turn for name in "ab"] == [start + 2, start + 1]
