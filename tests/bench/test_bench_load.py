"""Laws of a load run, against a tiny server: times count from the schedule, nothing is dropped, order is kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from bench_server import HEAD, PROBES, Asked, Server, end, event, plain, token, whole

from pilothouse.bench.load import NOT_SENT, STOPPED, StageResult
from pilothouse.bench.run import Bench, Origin, shorten
from pilothouse.bench.settings import Api, Prompts, Settings
from pilothouse.core.errors import ConfigError, PilothouseError, UpstreamError
from pilothouse.core.units import SECOND, BlockKey, Micros, RequestId
from pilothouse.workload.outcomes import Objectives, Run
from pilothouse.workload.requests import Planned, Stage, Workload, block_keys

SIZE = 16
MS = 1000


def request(name: str, at_ms: float, tokens: int = 48, output: int = 3, **more: Any) -> Planned:
    blocks: list[BlockKey] = more.pop("blocks", None) or block_keys(hash_of(name), tokens // SIZE)
    return Planned(RequestId(name), Micros(int(at_ms * MS)), blocks, tokens, output, output, **more)


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode())


def stage(*requests: Planned, name: str = "stage", **more: Any) -> Stage:
    return Stage(name, 10.0, 1.0, list(requests), **more)


class Ran:
    """A run that is over."""

    def __init__(self, run: Run, results: list[StageResult], server: Server) -> None:
        self.run, self.results, self.server = run, results, server
        self.outcomes = {outcome.request: outcome for result in results for outcome in result.outcomes}

    def __getitem__(self, name: str) -> Any:
        return self.outcomes[RequestId(name)]

    def sent_at(self, i: int) -> int:
        """Arrival at the server after the beginning of the first stage [us]."""
        return self.server.asked[i].at_us - self.results[0].start_us


def bench(
    *stages: Stage,
    script: Any = whole,
    models: tuple[str, ...] = ("m",),
    beside: Callable[[Bench, Server], Awaitable[None]] | None = None,
    **settings: Any,
) -> Ran:
    async def main() -> Ran:
        async with Server(script, models) as server:
            told: list[StageResult] = []
            asking = Settings(url=server.url, **settings)
            running = Bench(Workload("m", SIZE, list(stages)), asking, Origin("test", 1.0, 1), lambda load, count: None)
            running.heard = told.append
            other = asyncio.ensure_future(beside(running, server)) if beside else None
            run = await running.run()
            if other:
                await other
            return Ran(run, told, server)

    return asyncio.run(main())


def test_requests_go_out_by_the_clock_and_never_early() -> None:
    planned = [request(f"r{i}", at) for i, at in enumerate([0, 5, 30, 31, 80])]
    ran = bench(stage(*planned))
    for i, one in enumerate(planned):
        assert ran[one.request].sent_us == ran.results[0].start_us + one.arrival_us  # the schedule, not the deed
        assert ran.sent_at(i) >= one.arrival_us
    assert [asked.body["max_tokens"] for asked in ran.server.asked] == [3] * 5
    summary = ran.run.stages[0].summary
    assert (summary.requests, summary.refused, summary.errors) == (5, 0, {})
    assert summary.offered_rate == 10.0 and 0 < summary.achieved_rate <= 5 / 0.08


def test_no_answer_delays_a_scheduled_request() -> None:
    """The first answer comes when the last request is there: a closed loop would never end."""
    all_there = asyncio.Event()

    async def script(asked: Asked) -> AsyncIterator[bytes]:
        if not asked.is_probe:
            seen.append(asked)
            if len(seen) == 6:
                all_there.set()
            await all_there.wait()
        async for part in whole(asked):
            yield part

    seen: list[Asked] = []
    ran = bench(stage(*(request(f"r{i}", i * 10) for i in range(6))), script=script)
    assert all(not outcome.refused for outcome in ran.outcomes.values())
    assert ran["r0"].ttft_us >= 50 * MS and ran.results[0].client.in_flight_max == 6


def test_a_stalled_client_counts_from_the_schedule_and_says_that_it_was_late() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        if asked.body["max_tokens"] == 4:  # the loop stands still while r1 is due
            until = asyncio.get_running_loop().time() + 0.08
            while asyncio.get_running_loop().time() < until:
                pass
        async for part in whole(asked):
            yield part

    ran = bench(stage(request("r0", 0, output=4), request("r1", 20)), script=script)
    assert ran["r1"].sent_us == ran.results[0].start_us + 20 * MS and ran["r1"].ttft_us >= 50 * MS
    client = ran.results[0].client
    assert client.late_p99_us >= 40 * MS and client.is_bottleneck
    assert any("bottleneck" in note for note in ran.run.notes) and "THE CLIENT ITSELF" in ran.run.stages[0].notes[0]


def test_gaps_and_times_are_those_of_the_server() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        yield HEAD
        for _ in range(asked.body["max_tokens"]):
            await asyncio.sleep(0 if asked.is_probe else 0.02)  # the server's pace
            yield token(asked)
        yield end(asked, asked.body["max_tokens"], cached=32)

    ran = bench(stage(request("r0", 0, output=5)), script=script, objectives=Objectives(ttft_us=Micros(10 * SECOND)))
    outcome, gaps = ran["r0"], ran.results[0].gaps[""]
    assert gaps.count == 4 and gaps.total_us == outcome.end_us - outcome.first_us
    assert outcome.ttft_us >= 19 * MS and outcome.e2e_us >= 5 * 19 * MS
    assert outcome.tpot_us == gaps.total_us / 4 and outcome.output_tokens == outcome.counted_tokens == 5
    summary = ran.run.stages[0].summary
    assert summary.hit_ratio == 32 / 48 and summary.goodput == pytest.approx(1 / summary.seconds)


def test_every_request_is_counted_and_every_failure_has_its_reason() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        match asked.body["max_tokens"]:
            case 4:
                yield plain(429, b'{"error":{"message":"too many"}}')
            case 5:
                yield HEAD + token(asked)
                yield event(b'{"error":{"message":"broke down","code":500}}')
            case 6:
                yield HEAD + token(asked)
                raise ConnectionError
            case 7:
                raise ConnectionError
            case 8:
                yield HEAD + token(asked)
                await asyncio.sleep(30)
            case _:
                async for part in whole(asked):
                    yield part

    planned = [request(f"r{i}", i, output=i) for i in range(3, 10)]
    ran = bench(stage(*planned), script=script, timeout_us=Micros(1500 * MS))
    errors = {name: outcome.error for name, outcome in ran.outcomes.items()}
    assert errors == {
        "r3": "", "r4": "HTTP 429: too many", "r5": "error in the stream: broke down",
        "r6": "broken: the connection closed before the end of the answer",
        "r7": "closed: the engine closed the connection without an answer",
        "r8": "timeout: the engine took too long", "r9": "",
    }  # fmt: skip
    summary = ran.run.stages[0].summary
    assert (summary.requests, summary.refused, sum(summary.errors.values())) == (7, 5, 5)


def test_more_than_may_be_in_flight_are_not_sent_and_counted() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        if not asked.is_probe:
            await asyncio.sleep(0.05)
        async for part in whole(asked):
            yield part

    ran = bench(stage(*(request(f"r{i}", 0) for i in range(5))), script=script, concurrency_max=2)
    assert [outcome.error for outcome in ran.outcomes.values()].count(NOT_SENT) == 3
    assert len(ran.server.asked) == 2 and ran.run.stages[0].summary.refused == 3


def test_a_closed_loop_waits_for_the_end_and_thinks_even_after_a_failure() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        if asked.body["max_tokens"] == 4:
            yield plain(500, b"{}")
            return
        async for part in whole(asked):
            yield part

    first = request("a", 0, output=4)
    second = request("b", 20, output=5, after=RequestId("a"))
    third = request("c", 10, output=6, after=RequestId("b"))
    ran = bench(stage(first, second, third), script=script)
    assert [asked.body["max_tokens"] for asked in ran.server.asked] == [4, 5, 6]
    assert ran["a"].refused and not ran["b"].refused
    assert ran["b"].sent_us >= ran["a"].end_us + 20 * MS and ran["c"].sent_us >= ran["b"].end_us + 10 * MS


@pytest.mark.parametrize(
    ("api", "prompts"), [(Api.CHAT, Prompts.TEXT), (Api.COMPLETIONS, Prompts.TOKENS), (Api.COMPLETIONS, Prompts.TEXT)]
)
def test_a_conversation_goes_on_from_the_answer_that_came(api: Api, prompts: Prompts) -> None:
    blocks = block_keys(3, 8)
    first = request("a", 0, 48, blocks=blocks[:3], session=77)
    second = request("b", 0, 128, blocks=blocks, session=77, after=RequestId("a"))
    ran = bench(stage(first, second), api=api, prompts=prompts)
    earlier, later = (asked.body for asked in ran.server.asked)
    if api is Api.CHAT:
        assert later["messages"][0] == earlier["messages"][0]
        assert later["messages"][1] == {"role": "assistant", "content": " w0 w1 w2"}
        assert later["messages"][2]["role"] == "user"
    elif prompts is Prompts.TOKENS:
        assert later["prompt"][:51] == [*earlier["prompt"], 7000, 7001, 7002]
    else:
        assert later["prompt"].startswith(earlier["prompt"] + " w0 w1 w2 ")
    assert ran.server.asked[1].words == 128
    assert {asked.headers["x-session-id"] for asked in ran.server.asked} == {f"{77:016x}"}


def test_template_tokens_are_measured_and_taken_off() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        yield HEAD + token(asked)
        yield end(asked, 1, template=4)

    ran = bench(stage(request("a", 0, 80)), script=script)
    assert len(ran.server.probes) == PROBES
    assert ran.server.asked[0].words == 76 and ran["a"].prompt_tokens == 80


def test_stages_follow_each_other_and_a_warm_up_is_not_reported() -> None:
    warm = stage(request("a", 0), name="warm-up", reported=False, pause_us=Micros(30 * MS))
    ran = bench(warm, stage(request("b", 0), name="real", pause_us=Micros(3600 * SECOND)))
    assert [one.name for one in ran.run.stages] == ["real"] and len(ran.server.asked) == 2
    assert ran["b"].sent_us >= ran["a"].end_us + 30 * MS


def test_stopping_gives_a_partial_run_that_says_so() -> None:
    arrived = asyncio.Event()

    async def script(asked: Asked) -> AsyncIterator[bytes]:
        if asked.body["max_tokens"] == 4:
            yield HEAD + token(asked)
            arrived.set()
            await asyncio.sleep(30)
        async for part in whole(asked):
            yield part

    async def stop(running: Bench, server: Server) -> None:
        await arrived.wait()
        running.stop()

    planned = [request("a", 0), request("b", 1, output=4), request("c", 60_000)]
    ran = bench(stage(*planned), stage(request("d", 0)), script=script, beside=stop)
    assert ran["b"].error == STOPPED and set(ran.outcomes) == {"a", "b"}
    assert any(note.startswith("PARTIAL") and "2 planned" in note for note in ran.run.notes)


def test_a_server_that_hangs_can_be_given_up_before_the_load() -> None:
    asked = asyncio.Event()

    async def script(one: Asked) -> AsyncIterator[bytes]:
        asked.set()
        await asyncio.sleep(30)
        yield b""

    async def stop(running: Bench, server: Server) -> None:
        await asked.wait()
        running.stop()

    with pytest.raises(PilothouseError, match="before the load began"):
        bench(stage(request("a", 0)), script=script, beside=stop)


def test_a_server_that_takes_less_is_asked_for_less() -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        if "ignore_eos" in asked.body or "return_token_ids" in asked.body:
            yield plain(400, b'{"error":{"message":"unknown field"}}')
            return
        async for part in whole(asked):
            yield part

    ran = bench(stage(request("a", 0)), script=script, api=Api.COMPLETIONS, prompts=Prompts.TOKENS)
    assert not ran["a"].error and "min_tokens" not in ran.server.asked[0].body
    assert any("ignore_eos" in note for note in ran.run.notes)


def test_nothing_is_sent_to_a_server_without_the_model_or_without_a_server() -> None:
    async def unknown(asked: Asked) -> AsyncIterator[bytes]:
        yield plain(404, b'{"error":{"message":"no such model"}}')

    with pytest.raises(ConfigError, match=r"no model 'z', it has: x, y \(.*no such model"):
        bench(stage(request("a", 0)), script=unknown, models=("x", "y"), model="z")
    with pytest.raises(ConfigError, match="choose one of: x, y"):
        bench(stage(request("a", 0)), models=("x", "y"))
    running = Bench(
        Workload("m", SIZE, [stage(request("a", 0))]), Settings(url="http://127.0.0.1:1"), Origin("t", 1, 1), print
    )
    with pytest.raises(UpstreamError, match=r"127\.0\.0\.1:1"):
        asyncio.run(running.run())


def test_a_router_that_lists_other_names_is_asked_for_the_model_all_the_same() -> None:
    ran = bench(stage(request("a", 0)), models=("unknown",), model="m")
    assert not ran["a"].error and ran.server.asked[0].body["model"] == "m"
    assert any("lists unknown" in note for note in ran.run.notes)


@pytest.mark.parametrize("emulated", [True, False])
def test_an_emulator_behind_a_gateway_is_known_by_its_header(emulated: bool) -> None:
    async def script(asked: Asked) -> AsyncIterator[bytes]:
        yield HEAD[:-2] + b"X-Emulated: somebody\r\n\r\n" if emulated else HEAD
        yield token(asked) + end(asked, 1)

    ran = bench(stage(request("a", 0, output=1)), script=script)
    assert not ran["a"].error and ran.run.label == ("Emulated" if emulated else "Measured")


def test_the_first_requests_only() -> None:
    two = Workload("m", SIZE, [stage(request("a", 0), request("b", 1)), stage(request("c", 0))])
    assert [len(one.requests) for one in shorten(two, 1).stages] == [1]
    assert [len(one.requests) for one in shorten(two, 3).stages] == [2, 1] == [len(s.requests) for s in two.stages]
