"""Laws of prompts: a key alone decides its content, lengths are as planned, conversations go on from what was said."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.bench.bodies import Bodies, Said, goes_on, read_answer
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


def body_of(api: Api, prompts: Prompts, said: Said | None = None, answer: bytes = b"", **server: Any) -> dict[str, Any]:
    settings = Settings(url="http://x:1", api=api, prompts=prompts)
    drawer = IdDrawer(7, 1, 9) if prompts is Prompts.TOKENS else WordDrawer(7, WORDS, 1.0)
    bodies = Bodies(settings, Server(model='a "model"', **server), Fragments(drawer, SIZE, 1 << 20), b"x:1")
    one = planned(block_keys(1, 4), 64, session=255)
    made = bodies.first(one, keeps=True) if said is None else bodies.next(one, said, answer, keeps=False)
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


def test_a_later_turn_says_again_what_was_said() -> None:
    said = Said(b'{"role":"user","content":" a b"}', 20)
    chat = body_of(Api.CHAT, Prompts.TEXT, said, b'"an \\"answer\\""', turn_tokens=4)["messages"]
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]
    assert chat[0]["content"] == " a b" and chat[1]["content"] == 'an "answer"'
    assert len(chat[2]["content"].split()) == 64 - 20 - 4
    tokens = body_of(Api.COMPLETIONS, Prompts.TOKENS, Said(b"1,2,3", 20), b"77,78")["prompt"]
    assert tokens[:5] == [1, 2, 3, 77, 78] and len(tokens) == 5 + 64 - 20
    text = body_of(Api.COMPLETIONS, Prompts.TEXT, Said(b" a b", 20), b'" so\\n"')["prompt"]
    assert text.startswith(" a b so\n ")


def test_only_the_next_turn_of_the_same_session_goes_on() -> None:
    first = planned(block_keys(1, 2), 40, "a", session=9)
    later = planned(block_keys(1, 4), 64, "b", session=9, after=RequestId("a"))
    assert goes_on(first, later)
    assert not goes_on(first, planned(block_keys(1, 4), 64, "b", session=8, after=RequestId("a")))
    assert not goes_on(first, planned(block_keys(2, 4), 64, "b", session=9, after=RequestId("a")))
    assert not goes_on(first, planned(block_keys(1, 4), 44, "b", session=9, after=RequestId("a")))
    assert not goes_on(first, planned(block_keys(1, 4), 64, "b", session=9, after=RequestId("c")))


def test_an_answer_is_read_back_from_its_stream() -> None:
    stream = (
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"one \\"two\\""}}]}\n\n'
        b'data: {"choices":[{"text":" three","token_ids":[5,6]}]}\n\n: ping\n\ndata: {broken\n\ndata: [DONE]\n\n'
    )
    assert read_answer(stream) == ('one "two" three', [5, 6])
