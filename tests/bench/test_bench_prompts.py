"""Laws of prompts: a key alone decides its content, lengths are as planned, conversations go on from what was said."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.bench.bodies import Bodies, read_answer
from pilothouse.bench.conversations import Conversations, Told
from pilothouse.bench.prompts import STEP_BLOCKS, WORDS, Fragments, IdDrawer, WordDrawer
from pilothouse.bench.settings import Api, Prompts, Server, Settings
from pilothouse.core.units import BlockKey, Micros, RequestId
from pilothouse.workload.requests import Planned, block_keys

SIZE = 16
keys = st.lists(st.integers(0, (1 << 64) - 1).map(BlockKey), max_size=30, unique=True)


def planned(blocks: list[BlockKey], tokens: int, name: str = "r", **more: Any) -> Planned:
    return Planned(RequestId(name), Micros(0), blocks, tokens, 4, 4, **more)


def ids(fragment: bytes) -> list[int]:
    return [int(part) for part in fragment.split(b",")]


def id_fragments(bytes_max: int = 1 << 20) -> Fragments:
    return Fragments(IdDrawer(7, 1000, 30_000), SIZE, bytes_max)


@given(keys, keys, st.integers(0, SIZE - 1))
def test_token_prompts_have_the_planned_length_and_share_exactly_what_their_keys_share(
    shared: list[BlockKey], own: list[BlockKey], tail: int
) -> None:
    fragments = id_fragments()
    one = planned([*shared, *own], (len(shared) + len(own)) * SIZE + tail + 1)
    other = planned([*shared, BlockKey(1 << 64)], (len(shared) + 1) * SIZE + 1, "s")
    first, second = ids(fragments.prompt(one)), ids(fragments.prompt(other))
    assert len(first) == one.prompt_tokens and len(second) == other.prompt_tokens
    assert all(1000 <= token <= 30_000 for token in first)
    edge = len(shared) * SIZE
    assert first[:edge] == second[:edge]
    assert first[edge : edge + SIZE] != second[edge : edge + SIZE]


@given(keys, st.integers(1, 600))
def test_a_prompt_is_the_same_whether_remembered_forgotten_or_made_in_steps(
    blocks: list[BlockKey], tokens: int
) -> None:
    one, fresh, forgetful = planned(blocks, tokens), id_fragments(), id_fragments(bytes_max=2)
    at = 0
    while at < len(blocks):
        gone = fresh.prepare(blocks, at)
        assert gone > at and gone - at <= STEP_BLOCKS
        at = gone
    assert fresh.prompt(one) == forgetful.prompt(one) == forgetful.prompt(one) == id_fragments().prompt(one)


@given(st.floats(0.7, 2.5), st.integers(1, 40), st.integers(0, 15), st.integers(0, 9))
def test_text_prompts_have_the_planned_length_by_the_measured_ratio(
    ratio: float, blocks: int, tail: int, template: int
) -> None:
    fragments = Fragments(WordDrawer(1, WORDS, ratio), SIZE, 1 << 20)
    one = planned(block_keys(5, blocks), blocks * SIZE + tail)
    words = len(fragments.prompt(one, template).split())
    assert abs(words - (one.prompt_tokens - template) / ratio) <= 1
    longer = planned(block_keys(5, blocks + 1), (blocks + 2) * SIZE, "longer")
    same = round(max(0, blocks * SIZE - template) / ratio) - 1
    assert fragments.prompt(longer, template).split()[:same] == fragments.prompt(one, template).split()[:same]


def test_another_seed_gives_another_text() -> None:
    one = planned(block_keys(1, 2), 2 * SIZE)
    assert id_fragments().prompt(one) != Fragments(IdDrawer(8, 1000, 30_000), SIZE, 1 << 20).prompt(one)


def body_of(api: Api, prompts: Prompts, told: Told | None = None, **server: Any) -> dict[str, Any]:
    settings = Settings(url="http://x:1", api=api, prompts=prompts)
    drawer = IdDrawer(7, 1, 9) if prompts is Prompts.TOKENS else WordDrawer(7, WORDS, 1.0)
    bodies = Bodies(settings, Server(model='a "model"', **server), Fragments(drawer, SIZE, 1 << 20), b"x:1")
    one = planned(block_keys(1, 4), 64, session=255)
    made = bodies.first(one, keeps=True) if told is None else bodies.next(one, told, keeps=False)
    head = made.head.decode().split("\r\n")
    assert head[0].startswith("POST /v1/") and f"content-length: {len(made.body)}" in head
    assert "x-session-id: 00000000000000ff" in head
    body: dict[str, Any] = json.loads(made.body)
    assert body["model"] == 'a "model"' and body["stream"] and body["max_tokens"] == 4
    return body


def test_bodies_ask_for_fixed_lengths_and_ids_only_where_the_server_takes_them() -> None:
    plain = body_of(Api.CHAT, Prompts.TEXT)
    assert not {"ignore_eos", "min_tokens", "return_token_ids"} & set(plain)
    full = body_of(Api.COMPLETIONS, Prompts.TOKENS, fixed_length=True, token_ids=True)
    assert full["ignore_eos"] and full["min_tokens"] == 4 and full["return_token_ids"] and len(full["prompt"]) == 64


def told(earlier: Planned, content: bytes = b"", text: str = "", ids: list[int] | None = None, output: int = 2) -> Told:
    return Told(earlier, content, earlier.prompt_tokens, text, ids or [], output)


def test_a_later_turn_says_again_what_was_said() -> None:
    first = planned(block_keys(1, 1), 20, "a")
    chat = told(first, b'{"role":"user","content":" a b"}', 'an "answer"')
    messages = body_of(Api.CHAT, Prompts.TEXT, chat, turn_tokens=4)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == " a b" and messages[1]["content"] == 'an "answer"'
    assert len(messages[2]["content"].split()) == 64 - 20 - 4 - 2
    tokens = body_of(Api.COMPLETIONS, Prompts.TOKENS, told(first, b"1,2,3", ids=[77, 78]))["prompt"]
    assert tokens[:5] == [1, 2, 3, 77, 78] and len(tokens) == 5 + 64 - 20 - 2
    text = body_of(Api.COMPLETIONS, Prompts.TEXT, told(first, b" a b", "so\n"))["prompt"]
    assert text.startswith(" a bso\n ")


@given(st.integers(1, 40), st.integers(0, 60))
def test_of_an_answer_goes_back_what_the_plan_keeps(room: int, output: int) -> None:
    first = planned(block_keys(1, 1), 64 - room, "a")
    ids = list(range(7000, 7000 + output))
    prompt = body_of(Api.COMPLETIONS, Prompts.TOKENS, told(first, b"5", ids=ids, output=output))["prompt"]
    kept = min(output, room - 1)
    assert prompt[: 1 + kept] == [5, *ids[:kept]] and len(prompt) == 1 + room


def test_turns_go_on_from_the_longest_beginning_whoever_said_it() -> None:
    """Two turns; a branch from the first of them; the conversation cut back to its first turn; somebody else."""
    chain, cut = block_keys(1, 9), block_keys(2, 9)
    after = RequestId("a")
    first, second = planned(chain[:2], 40, "a"), planned(chain[:5], 90, "b", after=after)
    branch, back = (
        planned(chain[:2] + cut[:4], 99, "c", after=after),
        planned(chain[:2] + cut[5:], 80, "d", after=after),
    )
    other = planned(block_keys(3, 4), 64, "e", after=after)
    talks = Conversations([first, second, branch, back, other], 1000)
    assert talks.wants(first.request) and not talks.wants(second.request)
    talks.tell(said := told(first, b"x" * 900))
    talks.tell(told(second, b"y" * 900))
    assert [talks.before(later) for later in (second, branch, back, other)] == [said, said, said, None]
    assert talks.written_anew == 0 and not talks.wants(first.request)


def test_what_does_not_fit_or_is_not_there_is_written_anew() -> None:
    first = planned(block_keys(1, 2), 40, "a")
    later = [planned(block_keys(1, 3 + i), 60, f"l{i}", after=RequestId("a")) for i in (0, 0)]
    talks = Conversations([first, *later], 100)
    talks.tell(told(first, b"x" * 101))
    assert talks.before(later[0]) is None and talks.written_anew == 1


def test_an_answer_is_read_back_from_its_stream() -> None:
    stream = (
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"one \\"two\\""}}]}\n\n'
        b'data: {"choices":[{"text":" three","token_ids":[5,6]}]}\n\n: ping\n\ndata: {broken\n\ndata: [DONE]\n\n'
    )
    assert read_answer(stream) == ('one "two" three', [5, 6])
