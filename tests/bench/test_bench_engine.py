"""Against a real engine: it counts what was planned, and a conversation's second turn finds the first one in its cache."""

import asyncio

import pytest

from pilothouse.bench.load import StageResult
from pilothouse.bench.run import Bench, Origin
from pilothouse.bench.settings import Api, Prompts, Settings
from pilothouse.core.units import Micros, RequestId
from pilothouse.workload.outcomes import Run
from pilothouse.workload.requests import Planned, Stage, Workload, block_keys
from rig.engines import Rig

pytestmark = pytest.mark.engine
SIZE, TURNS, SESSIONS, OUTPUT = 32, 3, 4, 8


def conversations() -> Workload:
    """Sessions with a common beginning of three blocks; each turn adds four blocks, the answer included."""
    requests = []
    for session in range(1, SESSIONS + 1):
        blocks = block_keys(1, 3) + block_keys(100 + session, 20)
        for turn in range(TURNS):
            count = 6 + 4 * turn
            after = RequestId(f"{session}-{turn - 1}") if turn else None
            requests.append(
                Planned(RequestId(f"{session}-{turn}"), Micros(5_000 * session), blocks[:count], count * SIZE + 5,
                        OUTPUT, OUTPUT, session, after=after)
            )  # fmt: skip
    return Workload("tiny", SIZE, [Stage("sessions", 1.0, 1.0, requests)])


def measured(rig: Rig, url: str, api: Api, prompts: Prompts, seed: int) -> tuple[Run, StageResult]:
    async def main() -> tuple[Run, StageResult]:
        results: list[StageResult] = []
        running = Bench(
            conversations(),
            Settings(url=url, api=api, prompts=prompts),
            Origin("t", 1.0, seed),
            lambda load, count: None,
        )
        running.heard = results.append
        return await running.run(), results[0]

    return asyncio.run(main())


def test_counts_are_the_engines_and_later_turns_hit_its_cache(rig: Rig, tiny: object) -> None:
    with rig.start(str(tiny)) as engine:
        for seed, (api, prompts) in enumerate([(Api.COMPLETIONS, Prompts.TOKENS), (Api.CHAT, Prompts.TEXT)]):
            run, result = measured(rig, engine.url, api, prompts, seed)
            assert len(result.outcomes) == SESSIONS * TURNS
            assert all(outcome.error == "" and outcome.output_tokens == OUTPUT for outcome in result.outcomes), (
                run.notes
            )
            assert result.counted_chunks == result.written_anew == 0 and result.cache_told
            planned = {request.request: request for request in result.stage.requests}
            for outcome in result.outcomes:
                turn, tokens = int(outcome.request[-1]), planned[outcome.request].prompt_tokens
                if prompts is Prompts.TOKENS:
                    assert outcome.prompt_tokens == tokens
                    before = tokens - 4 * SIZE if turn else 0
                    assert outcome.cached_tokens >= (before + OUTPUT - 1) // SIZE * SIZE
                else:  # the answer of a random model is other tokens when it is tokenised again
                    assert abs(outcome.prompt_tokens - tokens) <= 0.1 * tokens
                    assert turn == 0 or outcome.cached_tokens > 0
            hits = run.stages[0].summary.hit_ratio
            assert hits == sum(o.cached_tokens for o in result.outcomes) / sum(o.prompt_tokens for o in result.outcomes)
