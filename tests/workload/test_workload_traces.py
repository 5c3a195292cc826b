"""Traces: what a few rows become, and what is published of the real ones."""

import csv
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.units import Micros, Seconds
from pilothouse.workload.profile import describe
from pilothouse.workload.requests import Planned
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe
from pilothouse.workload.traces import agentic, azure, mooncake, sharegpt
from pilothouse.workload.traces.agentic import AgenticTrace
from pilothouse.workload.traces.azure import Azure
from pilothouse.workload.traces.mooncake import Mooncake
from pilothouse.workload.traces.replay import Replay, batch_us, window
from pilothouse.workload.traces.sharegpt import ShareGpt
from tests.workload.recipes import SECOND, agentic_session, azure_rows, check, mooncake_rows, sharegpt_rows

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"
published = pytest.mark.skipif(not TRACES.is_dir(), reason="no traces beside the repository (../shared/traces)")


def requests(recipe: Recipe, seed: int = 1) -> list[Planned]:
    workload = recipe.make(seed)
    check(workload)
    return workload.stages[0].requests


def test_mooncake_rows_keep_their_blocks_but_the_last_if_it_is_not_full() -> None:
    rows = mooncake.parse(mooncake_rows())
    assert [len(row.blocks) for row in rows] == [2, 2, 5, 1, 0, 0]
    assert rows[0].blocks == rows[2].blocks[:2] and rows[1].blocks[0] == rows[3].blocks[0]
    assert rows[0].session == rows[2].session and len({row.session for row in rows}) == 5
    assert rows[0].output_blocks == rows[2].blocks[2:4]  # (1500 + 700 - 1) // 512 = 4 blocks are held at its end
    assert rows[1].output_blocks == []
    kept, dropped = Recipe(Mooncake("f", answers=True), rows), Recipe(Mooncake("f"), rows)
    assert any(r.output_blocks for r in requests(kept)) and not any(r.output_blocks for r in requests(dropped))


def test_ticks_are_filled_evenly_unless_told_otherwise() -> None:
    rows = mooncake.parse(mooncake_rows())
    assert batch_us(rows) == 3 * SECOND
    at = {
        planned.request: planned.arrival_us
        for seed in range(40)
        for planned in requests(Recipe(Mooncake("f"), rows), seed)
    }
    assert max(at.values()) < 9 * SECOND
    still = requests(Recipe(Mooncake("f", jitter_us=Micros(0)), rows))
    assert [planned.arrival_us for planned in still] == [0, 0, 3 * SECOND, 3 * SECOND, 6 * SECOND, 6 * SECOND]
    slow = requests(Recipe(Mooncake("f", jitter_us=Micros(0), time_scale=2.0), rows))
    assert [planned.arrival_us for planned in slow] == [2 * planned.arrival_us for planned in still]


def test_a_window_is_cut_by_time_length_and_number() -> None:
    rows = mooncake.parse(mooncake_rows())
    whole = Replay("f")

    def prompts(**cut: object) -> list[int]:
        return [row.prompt_tokens for row in window(msgspec.structs.replace(whole, **cut), rows)]

    assert prompts(from_us=1, until_us=6 * SECOND) == [2600, 512]
    assert prompts(context_max=1105) == [1100 + 0, 512, 40, 40] and prompts(context_max=1104) == [512, 40, 40]
    assert prompts(requests_max=2) == [1500, 1100]
    late = Recipe(Mooncake("f", from_us=Micros(3 * SECOND), jitter_us=Micros(0)), rows)
    assert requests(late)[0].arrival_us == 0


@given(
    st.datetimes(datetime.fromisoformat("2000-01-01"), datetime.fromisoformat("2400-01-01")),
    st.timedeltas(timedelta(0), timedelta(days=2000)),
)
def test_azure_times_are_calendar_times(first: datetime, later: timedelta) -> None:
    lines = [f"{at:%Y-%m-%d %H:%M:%S.%f}0,10,2" for at in (first, first + later)]
    rows = azure.parse("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]).encode())
    assert [row.at_us for row in rows] == [0, later // timedelta(microseconds=1)]


def test_made_up_conversations_keep_what_was_recorded_and_leave_time_to_answer() -> None:
    rows = azure.parse(azure_rows(400))
    spec = Azure("f", continued=1.0, pause_us=Micros(20 * SECOND), idle_us=Micros(90 * SECOND), user_max=300)
    made = requests(Recipe(spec, rows))
    assert [p.prompt_tokens for p in made] == [row.prompt_tokens for row in rows]
    assert [p.arrival_us for p in made] == [row.at_us for row in rows]
    before: dict[int, Planned] = {}
    continued = 0
    for planned in made:
        earlier = before.get(planned.session)
        if earlier is not None:
            continued += 1
            assert 20 * SECOND <= planned.arrival_us - earlier.arrival_us <= 90 * SECOND
            assert 1 <= planned.prompt_tokens - earlier.prompt_tokens - earlier.output_tokens <= 300
            head = [*earlier.blocks, *earlier.output_blocks]
            assert planned.blocks[: len(head)] == head
        before[planned.session] = planned
    assert continued > 50
    assert not any(
        p.session and p.blocks for p in requests(Recipe(msgspec.structs.replace(spec, prefixes="none"), rows))
    )


def test_token_ids_share_as_far_as_they_are_equal() -> None:
    first, second, *_ = requests(Recipe(ShareGpt("f"), sharegpt.parse(sharegpt_rows(), 16)))
    assert (first.prompt_tokens, first.output_tokens, len(first.blocks)) == (70, 20, 4)
    assert first.blocks[:2] == second.blocks[:2] and first.blocks[2] != second.blocks[2]
    assert len(first.output_blocks) == (70 + 20 - 1) // 16 - 4
    assert sharegpt.hashed([1, 2, 1, 2], 2, 2)[0] != sharegpt.hashed([1, 2, 1, 2], 2, 2)[1]


def test_sessions_are_replayed_closed_loop_with_their_own_pauses() -> None:
    conversations = agentic.parse([agentic_session(False)])
    spec = AgenticTrace("f", [Phase(users=1, count=2)], pause_max_us=Micros(20 * SECOND), time_scale=0.5)
    made = requests(Recipe(spec, conversations=conversations))
    assert [p.arrival_us / SECOND for p in made] == [
        0,
        4,
        10,
        0,
        4,
        10,
    ]  # 9 - 0 - 1 s and 500 - 9 - 1 s, halved, cut at 20 s
    assert [p.after for p in made] == [None, *(p.request for p in made[:-1])]
    first, second, _, again, *_ = made
    assert first.output_blocks == second.blocks[5 : (330 + 140 - 1) // 64]
    assert again.blocks[:3] == first.blocks[:3] and not set(again.blocks[3:]) & set(first.blocks[3:])
    alone = requests(Recipe(msgspec.structs.replace(spec, share_system=False), conversations=conversations))
    assert not set(alone[0].blocks) & set(alone[3].blocks)


def test_sub_agents_run_side_by_side_and_the_parent_waits_for_the_longer_one() -> None:
    spec = AgenticTrace("f", [Phase(users=1, count=1)])
    first, one, other, second, third = requests(Recipe(spec, conversations=agentic.parse([agentic_session()])))
    assert one.after == other.after == first.request
    assert second.after == other.request and third.after == second.request
    assert one.blocks[:3] == first.blocks[:3] == other.blocks[:3] and one.blocks[3] != other.blocks[3]
    assert first.output_blocks == second.blocks[5:7]


def test_every_session_is_played_before_any_comes_again_and_long_ones_end_early() -> None:
    conversations = agentic.parse([agentic_session(), agentic_session(False)])
    spec = AgenticTrace("f", [Phase(users=2, count=6)], context_max=650)
    made = requests(Recipe(spec, conversations=conversations))
    sizes = [sum(p.request.startswith(f"0-{i}-") for p in made) for i in range(6)]
    assert [sorted(sizes[i : i + 2]) for i in (0, 2, 4)] == [[2, 4]] * 3
    assert max(p.prompt_tokens + p.output_tokens for p in made) <= 650


@published
@pytest.mark.parametrize(("name", "rows", "ratio"), [("conversation", 12_031, 0.374), ("synthetic", 3_993, 0.651)])
def test_mooncake_shares_as_much_as_published(name: str, rows: int, ratio: float) -> None:
    recorded = mooncake.parse((TRACES / f"mooncake_{name}_trace.jsonl").read_bytes())
    workload = Recipe(Mooncake("f"), recorded).make(1)
    profile = describe(workload)
    assert profile.requests == rows
    assert profile.shared_ratio == pytest.approx(ratio, abs=0.001)  # published figures count blocks that are not full
    batched = name == "conversation"
    assert batch_us(recorded) == (3_000_000 if batched else 0)
    if batched:
        assert profile.prompt.mean == pytest.approx(12_035, abs=1) and profile.output.mean == pytest.approx(343, abs=1)
        assert profile.rate == pytest.approx(3.4, abs=0.05)
        assert 1 - profile.conversations / rows == pytest.approx(0.387, abs=0.01)  # continue an earlier one
        at = [planned.arrival_us for planned in workload.stages[0].requests]
        assert len(set(at)) > 11_900


@published
def test_the_azure_trace_is_read_as_it_is() -> None:
    path = TRACES / "AzureLLMInferenceTrace_conv_2023.csv"
    rows = azure.parse(path.read_bytes())
    with path.open() as file:
        assert len(rows) == sum(1 for _ in csv.reader(file)) - 1 == 19_366
    made = Recipe(Azure("f", until_us=Micros(600 * SECOND)), rows).make(1)
    check(made)
    assert 0.3 < 1 - describe(made).conversations / describe(made).requests < 0.387


@published
def test_recorded_agents_find_most_of_their_context_in_the_cache() -> None:
    paths = sorted((TRACES / "agentic").glob("*.json"))[:4]
    conversations = agentic.parse([path.read_bytes() for path in paths])
    spec = AgenticTrace("f", [Phase(rate=0.1, seconds=Seconds(80))])
    made = Recipe(spec, conversations=conversations).make(1)
    check(made)
    assert len({p.session for p in made.stages[0].requests}) == 8 and describe(made).shared_ratio > 0.9
