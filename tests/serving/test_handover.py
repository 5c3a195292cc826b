"""A request whose prompt another engine computes: order of the steps, what each carries, and every way they can fail."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pilothouse.core.commands import Abort
from pilothouse.core.events import FailureKind, Finished, PrefillDone
from pilothouse.core.units import EndpointId
from pilothouse.serving import step
from pilothouse.serving.handover import Handover
from tests.serving.fakes import SSE_HEAD, STREAM, UNARY, chunk, ok, post, run
from tests.serving.splits import (
    EVENTS,
    HANG,
    HANG_UP,
    USAGE,
    WHOLE,
    Answering,
    Got,
    Pair,
    changed,
    decoded,
    pairing,
    prefill_answer,
    prefilled,
)  # fmt: skip

SPLIT = ("Arrived", "PrefillDone", "FirstToken", "Finished")
PLEASE = {"do_remote_decode": True, "do_remote_prefill": False}


def split(check: Callable[[Pair], Awaitable[None]], *sides: Answering, **more: Any) -> None:
    async def main() -> None:
        async with pairing(*sides, **more) as pair:
            await check(pair)

    run(main())


def told(pair: Pair) -> list[str]:
    return pair.world.steering.kinds()


def test_a_streamed_request_is_prefilled_then_claimed() -> None:
    async def check(pair: Pair) -> None:
        reply = await pair.world.ask(post(STREAM, more="x-request-id: mine\r\n"))
        assert (reply.status, reply.body) == (200, EVENTS)
        assert (
            reply.fields["x-pilothouse-endpoint"] == "decode-0" and reply.fields["x-pilothouse-prefill"] == "prefill-0"
        )
        await pair.world.steering.until(*SPLIT)
        (first,), (second,) = pair.prefill.got, pair.decode.got
        assert first.body == {
            "model": "m",
            "prompt": "hi",
            "max_tokens": 1,
            "stream": False,
            "kv_transfer_params": PLEASE,
        }
        assert first.name == second.name == pair.world.steering.events[0].request  # type: ignore[union-attr]
        assert second.raw.endswith(STREAM[1:])  # the client's bytes as they were
        given = json.loads(prefilled(first).partition(b"\r\n\r\n")[2])["kv_transfer_params"]
        assert second.body == json.loads(STREAM) | {"kv_transfer_params": given}
        done, ended = pair.world.steering.events[1], pair.world.steering.events[-1]
        assert isinstance(done, PrefillDone) and (done.prompt_tokens, done.cached_tokens) == (5, 2)
        assert isinstance(ended, Finished) and ended.prompt_tokens == 5
        (record,) = pair.world.records
        assert (record.prefill, record.endpoint, record.outcome) == ("prefill-0", "decode-0", "finished")
        assert record.prefill_us is not None and record.transfer_us is not None and record.ttft_us is not None
        assert 0 <= record.prefill_us + record.transfer_us <= record.ttft_us

    split(check)


def test_an_answer_in_one_piece_is_fetched_for_first() -> None:
    async def check(pair: Pair) -> None:
        reply = await pair.world.ask(post(UNARY))
        assert (reply.status, reply.body) == (200, WHOLE)
        await pair.world.steering.until(*SPLIT)
        fetch, plain = pair.decode.got
        assert fetch.body["max_tokens"] == 1 and fetch.body["kv_transfer_params"]["remote_num_tokens"] == 5
        assert plain.raw == UNARY
        assert pair.world.records[0].transfer_us is not None

    split(check)


def test_parameters_go_out_on_a_connection_that_has_carried_nothing() -> None:
    """On a used one that closes the request would be sent once more, and the parameters with it."""

    async def check(pair: Pair) -> None:
        for body in (STREAM, UNARY, STREAM):
            assert (await pair.world.ask(post(body))).status == 200
        claims = [got.link for got in pair.decode.got if "kv_transfer_params" in got.body]
        before = [got.link for got in pair.decode.got if "kv_transfer_params" not in got.body]
        assert len(claims) == len(set(claims)) == 3 and len(before) == 1

    split(check)


def test_a_claim_that_is_not_answered_is_not_sent_again() -> None:
    def answering(got: Got) -> bytes:
        return HANG_UP if "kv_transfer_params" in got.body else decoded(got)

    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(STREAM))).body == EVENTS
        assert pair.failures() == [("closed", False)]
        assert [("kv_transfer_params" in got.body) for got in pair.decode.got] == [True, False]

    split(check, prefilled, answering)


def unary_error(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n" % status + b'{"e": 1} '


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (HANG_UP, FailureKind.CLOSED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf" + HANG_UP, FailureKind.BROKEN),
        (b"220 smtp ready\r\n", FailureKind.GARBAGE),
        (unary_error(500), FailureKind.ERROR),
        (unary_error(503), FailureKind.BUSY),
        (unary_error(429), FailureKind.BUSY),
        (unary_error(404), FailureKind.ERROR),
        (ok(b"no JSON"), FailureKind.GARBAGE),
        (ok(b'{"usage": 7}'), FailureKind.GARBAGE),
        (ok(b"\xff"), FailureKind.GARBAGE),
        (ok(b"{}"), FailureKind.ERROR),
        (prefill_answer({"do_remote_prefill": True}, "abort"), FailureKind.ERROR),
        (prefill_answer(None), FailureKind.GARBAGE),
        (prefill_answer({}), FailureKind.GARBAGE),
    ],
)
@pytest.mark.parametrize("body", [STREAM, UNARY])
def test_a_prefill_that_fails_leaves_the_decode_engine_alone(body: bytes, answer: bytes, kind: FailureKind) -> None:
    async def check(pair: Pair) -> None:
        reply = await pair.world.ask(post(body))
        assert (reply.status, reply.fields["x-pilothouse-attempts"]) == (200, "2")
        assert "x-pilothouse-prefill" not in reply.fields
        assert pair.failures() == [(kind.value, True)]
        assert [got.raw for got in pair.decode.got] == [body]  # whole, without parameters
        assert told(pair)[-1] in ("Finished", "FirstToken") and "PrefillDone" not in told(pair)

    split(check, lambda got: answer)


def test_a_prefill_engine_that_is_not_there_is_a_failure_of_the_prefill() -> None:
    async def check(pair: Pair) -> None:
        await pair.prefill.engine.__aexit__()
        reply = await pair.world.ask(post(STREAM))
        assert (reply.status, pair.failures()) == (200, [("connect", True)])

    split(check)


@pytest.mark.parametrize(
    "more",
    [
        {"remote_request_id": "cmpl-another-0-81d8c8d2"},
        {"remote_request_id": None},
        {"remote_request_id": 7},
        {"remote_num_tokens": 4},
        {"remote_num_tokens": 6},
        {"remote_num_tokens": None},
        {"remote_num_tokens": True},
        {"do_remote_prefill": False},
        {"do_remote_prefill": None},
    ],
)
def test_parameters_of_something_else_are_never_used(more: dict[str, Any]) -> None:
    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(STREAM))).status == 200
        assert pair.failures() == [("garbage", True)]
        assert ["kv_transfer_params" in got.body for got in pair.decode.got] == [False]
        await pair.world.steering.until("Arrived", "Failed", "FirstToken", "Finished")
        assert "parameters" in pair.world.records[0].failure

    split(check, changed(**more))


def test_a_prompt_whose_tokens_we_count_otherwise_is_not_claimed() -> None:
    class Counted:
        tokens, blocks, mode, note = 6, list[int](), "exact", ""

    class Describes:
        def describe(self, route: str, body: dict[str, Any]) -> Counted:
            return Counted()

    async def check(pair: Pair) -> None:
        pair.world.directory.describer = Describes()
        assert (await pair.world.ask(post(STREAM))).status == 200
        assert pair.failures() == [("garbage", True)]

    split(check)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("body", [STREAM, UNARY])
def test_a_request_that_the_prefill_engine_blames_is_answered_so(status: int, body: bytes) -> None:
    async def check(pair: Pair) -> None:
        reply = await pair.world.ask(post(body))
        assert (reply.status, reply.body) == (status, b'{"e": 1} ')
        await pair.world.steering.until("Arrived", "Finished")
        assert not pair.decode.got

    split(check, lambda got: unary_error(status))


def refuses_claims(answer: bytes) -> Answering:
    return lambda got: answer if "kv_transfer_params" in got.body else decoded(got)


@pytest.mark.parametrize(
    ("answer", "kind", "prefill"),
    [
        (HANG_UP, FailureKind.CLOSED, False),
        (b"220 smtp ready\r\n", FailureKind.GARBAGE, False),
        (unary_error(500), FailureKind.ERROR, True),  # a decode engine that is well says so of a claim on a dead one
        (unary_error(503), FailureKind.BUSY, False),
    ],
)
@pytest.mark.parametrize("body", [STREAM, UNARY])
def test_a_claim_that_fails_is_routed_anew(body: bytes, answer: bytes, kind: FailureKind, prefill: bool) -> None:
    async def check(pair: Pair) -> None:
        pair.splits = 2
        pair.decode.answering = refuses_claims(answer)
        reply = await pair.world.ask(post(body))
        assert reply.status == 200 and reply.body in (EVENTS, WHOLE)
        assert pair.failures() == [(kind.value, prefill)] * 2
        assert told(pair).count("PrefillDone") == 2
        names = [got.name for got in pair.prefill.got]
        assert len(set(names)) == 2  # an engine may remember the first attempt by its name
        claims = [got.body["kv_transfer_params"]["remote_request_id"] for got in pair.decode.got[:2]]
        assert [f"cmpl-{name}-0-81d8c8d2" for name in names] == claims

    split(check)


def test_a_decode_engine_that_is_not_there_is_not_the_prefill_s_failure() -> None:
    async def check(pair: Pair) -> None:
        await pair.decode.engine.__aexit__()
        reply = await pair.world.ask(post(STREAM))
        assert (reply.status, pair.failures()) == (502, [("connect", False)] * 2)
        assert pair.world.records[0].outcome == "refused"

    split(check)


def test_a_fetch_that_is_refused_is_answered_by_the_request_itself() -> None:
    async def check(pair: Pair) -> None:
        reply = await pair.world.ask(post(UNARY))
        assert (reply.status, reply.body) == (400, b'{"e": 1} ')
        assert [("kv_transfer_params" in got.body) for got in pair.decode.got] == [True, False]
        await pair.world.steering.until("Arrived", "PrefillDone", "Finished")

    split(check, prefilled, lambda got: unary_error(400))


@pytest.mark.parametrize("body", [STREAM, UNARY])
@pytest.mark.parametrize("answer", [HANG, SSE_HEAD + HANG])
def test_a_claim_that_shows_nothing_in_time_is_dropped(body: bytes, answer: bytes) -> None:
    async def check(pair: Pair) -> None:
        pair.decode.answering = refuses_claims(answer)
        reply = await pair.world.ask(post(body))
        assert reply.status == 200 and pair.failures() == [("expired", False)]
        await pair.decode.until(lambda side: side.lost == 1)

    split(check, lease_us=200_000)


def test_a_claim_is_not_made_after_this_process_was_stopped() -> None:
    """An answer that waited for us is as old as the last turn of the timers."""

    async def check(pair: Pair) -> None:
        timers = pair.world.door.plane.timers
        timers.stop()
        timers.awake_us = pair.world.door.plane.clock.now_us() - 20_000_000
        assert (await pair.world.ask(post(STREAM))).status == 200
        assert pair.failures() == [("expired", True)]
        assert ["kv_transfer_params" in got.body for got in pair.decode.got] == [False]

    split(check)


@pytest.mark.parametrize("body", [STREAM, UNARY])
def test_what_comes_late_is_not_used(body: bytes) -> None:
    """The timers are too coarse, or this process was stopped: what counts is when the bytes are seen."""

    async def check(pair: Pair) -> None:
        plane = pair.world.door.plane

        def late(got: Got) -> bytes:
            plane.timers.stop()
            handover_of(pair)._due_us = plane.clock.now_us() - 1
            return decoded(got)

        pair.decode.answering = lambda got: late(got) if "kv_transfer_params" in got.body else decoded(got)
        client = await pair.world.client()
        client.send(post(body))
        assert (await client.reply()).body in (EVENTS, WHOLE)
        assert pair.failures() == [("expired", False)]
        assert told(pair).count("FirstToken") == (body == STREAM)  # of the second attempt

    split(check)


def handover_of(pair: Pair) -> Handover:
    (connection,) = pair.world.door.plane.connections
    handover: Handover = connection._exchange._handover  # type: ignore[union-attr, assignment]
    return handover


def test_a_claim_that_showed_its_first_byte_may_take_its_time() -> None:
    async def check(pair: Pair) -> None:
        pair.decode.answering = lambda got: SSE_HEAD + chunk(b"data: 1\n\n") + HANG
        client = await pair.world.client()
        client.send(post(STREAM))
        await pair.world.steering.until("Arrived", "PrefillDone", "FirstToken")
        assert handover_of(pair).due(pair.world.door.plane.clock.now_us() + 3_600_000_000) == 0
        client.close()
        await pair.world.steering.until("Arrived", "PrefillDone", "FirstToken", "Cancelled")

    split(check)


def test_a_request_whose_kv_is_fetched_may_take_its_time() -> None:
    async def check(pair: Pair) -> None:
        pair.decode.answering = lambda got: decoded(got) if "kv_transfer_params" in got.body else HANG
        client = await pair.world.client()
        client.send(post(UNARY))
        await pair.decode.until(lambda side: len(side.got) == 2)
        assert handover_of(pair).due(pair.world.door.plane.clock.now_us() + 3_600_000_000) == 0
        client.close()
        await pair.world.steering.until("Arrived", "PrefillDone", "FirstToken", "Cancelled")

    split(check)


def test_a_stream_that_begins_before_its_first_token_is_fetched_for_first() -> None:
    def answering(got: Got) -> bytes:
        if got.body.get("kv_transfer_params") != PLEASE:
            return decoded(got)
        return prefilled(got).replace(b"cmpl-", b"resp_").replace(b"-0-81d8c8d2", b"_0-81d8c8d2")

    async def check(pair: Pair) -> None:
        raw = b'{"model":"m","input":"hi","stream":true}'
        assert (await pair.world.ask(post(raw, "/v1/responses"))).body == EVENTS
        (first,), (fetch, plain) = pair.prefill.got, pair.decode.got
        assert first.body["request_id"] == fetch.body["request_id"] == f"resp_{first.name}"
        assert fetch.body["stream"] is False and plain.raw == raw

    split(check, answering)


@pytest.mark.parametrize("stage", ["prefill", "claim", "fetch", "answer"])
@pytest.mark.parametrize("how", ["client", "abort", "drain"])
def test_whoever_gives_up_drops_what_is_under_way(stage: str, how: str) -> None:
    def hangs(got: Got) -> bytes:
        return HANG if stage != "answer" or "kv_transfer_params" not in got.body else decoded(got)

    async def check(pair: Pair) -> None:
        at_prefill = stage == "prefill"
        if at_prefill:
            pair.prefill.answering = lambda got: HANG
        else:
            pair.decode.answering = hangs
        side = pair.prefill if at_prefill else pair.decode
        client = await pair.world.client()
        client.send(post(STREAM if stage in ("prefill", "claim") else UNARY))
        await side.until(lambda s: len(s.got) == (2 if stage == "answer" else 1))
        if how == "client":
            client.close()
        elif how == "drain":
            await pair.world.door.drain(0)
        else:
            side.answering = decoded
            (answer,) = pair.world.steering.answers.values()
            request = pair.world.steering.events[0].request  # type: ignore[union-attr]
            answer(Abort(request, EndpointId("prefill-0" if at_prefill else "decode-0")))
        await side.until(lambda s: s.lost == 1)
        if how == "abort":
            pair.decode.answering = decoded
            assert (await client.reply()).status == 200
            assert pair.failures() == [("timeout", at_prefill)]
        await side.until(lambda s: bool(pair.world.records))
        assert len([e for e in told(pair) if e in ("Finished", "Cancelled")]) == 1
        assert len(pair.world.records) == 1

    split(check)


def test_an_answer_without_end_is_not_kept() -> None:
    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(STREAM))).status == 200
        assert pair.failures() == [("garbage", True)]

    size = step.ANSWER_BYTES_MAX + 100_000
    split(check, lambda got: b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * size) + b"x" * size + HANG)


@pytest.mark.parametrize("kind", ["files", "mooncake_store", "lmcache"])
@pytest.mark.parametrize("body", [STREAM, UNARY])
def test_over_a_common_store_nothing_is_added(kind: str, body: bytes) -> None:
    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(body))).body in (EVENTS, WHOLE)
        assert pair.prefill.got[0].body == {"model": "m", "prompt": "hi", "max_tokens": 1, "stream": False}
        assert [got.raw for got in pair.decode.got] == [body]
        seen = ["FirstToken"] if body == STREAM else []
        await pair.world.steering.until("Arrived", "PrefillDone", *seen, "Finished")

    split(check, lambda got: prefill_answer(None), kind=kind)


BOOTSTRAP = ok(b'{"0": {"engine_id": "E", "worker_addr": {"0": {"0": "tcp://127.0.0.1:34015"}}}}')


def mooncake(end: str = "length", bootstrap: bytes = BOOTSTRAP) -> Answering:
    return lambda got: bootstrap if got.path == "/query" else prefill_answer(None, end)


def test_mooncake_is_asked_who_the_prefill_engine_is() -> None:
    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(STREAM))).body == EVENTS
        by_path = {got.path: got for got in pair.prefill.got}
        name = by_path["/v1/completions"].name
        assert by_path["/v1/completions"].body["kv_transfer_params"] == PLEASE | {"transfer_id": name}
        assert by_path["/v1/completions"].body["ignore_eos"] is True
        (claim,) = pair.decode.got
        assert claim.body["kv_transfer_params"] == {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_bootstrap_addr": pair.prefill.engine.url,
            "remote_engine_id": "E",
            "transfer_id": name,
        }

    split(check, mooncake(), kind="mooncake")


@pytest.mark.parametrize(
    ("answering", "kind"),
    [
        (mooncake("stop"), "expired"),  # it is well, but kept nothing
        (mooncake(bootstrap=ok(b"?")), "garbage"),
        (mooncake(bootstrap=ok(b"{}")), "garbage"),
        (mooncake(bootstrap=ok(b'{"0": {"engine_id": "a"}, "1": {"engine_id": "b"}}')), "garbage"),
        (mooncake(bootstrap=unary_error(500)), "error"),
        (mooncake(bootstrap=HANG_UP), "closed"),
        (mooncake(bootstrap=HANG), "expired"),
    ],
)
def test_mooncake_without_all_it_needs_is_not_claimed(answering: Answering, kind: str) -> None:
    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(STREAM))).body == EVENTS
        assert pair.failures() == [(kind, True)]
        assert ["kv_transfer_params" in got.body for got in pair.decode.got] == [False]

    split(check, answering, kind="mooncake", lease_us=200_000)


@pytest.mark.parametrize("body", [STREAM, UNARY])
def test_sglang_gets_both_steps_at_once(body: bytes) -> None:
    async def check(pair: Pair) -> None:
        begun = asyncio.Event()
        pair.prefill.answering = lambda got: begun.set() or HANG  # type: ignore[func-returns-value]
        assert (await pair.world.ask(post(body))).body in (EVENTS, WHOLE)
        await pair.world.steering.until(
            "Arrived", "PrefillDone", *(["FirstToken"] if body == STREAM else []), "Finished"
        )
        await begun.wait()
        (first,), (second,) = pair.prefill.got, pair.decode.got
        assert first.raw == second.raw and first.raw.endswith(body[1:])
        assert first.body["bootstrap_host"] == "127.0.0.1" and 0 <= first.body["bootstrap_room"] < 1 << 63

    split(check, kind="sglang")


def test_sglang_s_prefill_that_fails_takes_the_decode_step_with_it() -> None:
    async def check(pair: Pair) -> None:
        pair.decode.answering = lambda got: HANG if "bootstrap_room" in got.body else decoded(got)
        assert (await pair.world.ask(post(STREAM))).body == EVENTS
        assert pair.failures() == [("error", True)]

    split(check, lambda got: unary_error(500), kind="sglang")


def test_sglang_s_prefill_that_blames_the_request_takes_the_decode_step_with_it() -> None:
    async def check(pair: Pair) -> None:
        assert (await pair.world.ask(post(STREAM))).status == 400
        await pair.world.steering.until("Arrived", "Finished")
        await pair.decode.until(lambda side: side.lost == len(side.got))

    split(check, lambda got: unary_error(400), lambda got: HANG, kind="sglang")


@pytest.mark.parametrize("who", ["client", "decode"])
def test_sglang_s_prefill_ends_with_the_rest(who: str) -> None:
    async def check(pair: Pair) -> None:
        asked = asyncio.Event()
        pair.prefill.answering = lambda got: asked.set() or HANG  # type: ignore[func-returns-value]

        def answering(got: Got) -> bytes:
            return HANG if who == "client" else unary_error(500)

        pair.decode.answering = lambda got: answering(got) if "bootstrap_room" in got.body else decoded(got)
        client = await pair.world.client()
        client.send(post(STREAM))
        if who == "client":
            await asked.wait()
            client.close()
        else:
            assert (await client.reply()).body == EVENTS
            assert pair.failures() == [("error", False)]
        await pair.prefill.until(lambda side: side.lost == len(side.got))

    split(check, kind="sglang")


def test_usage_is_counted_once() -> None:
    async def check(pair: Pair) -> None:
        reply = await pair.world.ask(post(UNARY))
        assert json.loads(reply.body)["usage"] == USAGE
        await pair.world.steering.until(*SPLIT)
        (record,) = pair.world.records
        assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (5, 2, 1)
        assert sum(isinstance(e, Finished) for e in pair.world.steering.events) == 1

    split(check)
