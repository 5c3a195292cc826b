"""What each connector adds to the steps and takes from the answers, and which requests can be split."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.errors import ClientError
from pilothouse.wire.openai import FORBIDDEN_FIELDS, inspect_json
from pilothouse.wire.transfer.adapter import Transfer, Unusable
from pilothouse.wire.transfer.answer import Prefilled, read_prefilled
from pilothouse.wire.transfer.bodies import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    is_splittable,
    one_token,
    with_fields,
)
from pilothouse.wire.transfer.nixl import is_named
from pilothouse.wire.transfer.table import ADAPTERS

Body = dict[str, Any]
NAME = "rq~1a2b"
TRANSFER = Transfer(NAME, "10.0.0.1", 8998)
PLEASE = {"do_remote_decode": True, "do_remote_prefill": False}
# Recorded from vLLM 0.32: NIXL's answer to a prefill step.
GIVEN = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2, 3]],
    "remote_engine_id": "5329fafd",
    "remote_request_id": f"cmpl-{NAME}-0-81d8c8d2",
    "remote_host": "127.0.0.1",
    "remote_port": 35903,
    "tp_size": 1,
    "dcp_size": 1,
    "pp_size": 1,
    "remote_num_tokens": 400,
    "remote_blocks_expiry_time": None,
    "transfer_mode": "pull",
    "remote_prefill_cached_tokens": 0,
}
BOOTSTRAP = b'{"0": {"engine_id": "E", "worker_addr": {"0": {"0": "tcp://127.0.0.1:34015"}}}}'
WHERE = {"remote_bootstrap_addr": "http://10.0.0.1:8998", "remote_engine_id": "E", "transfer_id": NAME}


def done(parameters: Body | None = None, end: str = "length", tokens: int | None = 400) -> Prefilled:
    return Prefilled(end, parameters, tokens, 0)


@pytest.mark.parametrize(
    ("kind", "prefill", "asks", "prefilled", "told", "decode"),
    [
        ("nixl", {"kv_transfer_params": PLEASE}, "", done(GIVEN), b"", {"kv_transfer_params": GIVEN}),
        ("nixl_push", {"kv_transfer_params": PLEASE}, "", done(GIVEN), b"", {"kv_transfer_params": GIVEN}),
        ("files", {}, "", done(), b"", {}),
        ("mooncake_store", {}, "", done(end="stop"), b"", {}),
        ("lmcache", {}, "", done(), b"", {}),
        (
            *("mooncake", {"kv_transfer_params": PLEASE | {"transfer_id": NAME}, "ignore_eos": True}, "/query"),
            *(done(), BOOTSTRAP),
            {"kv_transfer_params": {"do_remote_prefill": True, "do_remote_decode": False} | WHERE},
        ),
        (
            *("offloading", {"kv_transfer_params": {"remote_decoder": {"kv_request_id": NAME}}}, "", done(), b""),
            {
                "kv_transfer_params": {
                    "remote_prefiller": {"kv_request_id": NAME, "remote_host": "10.0.0.1", "remote_port": 8998}
                }
            },
        ),
    ],
)
def test_what_is_added_to_each_step(
    kind: str, prefill: Body, asks: str, prefilled: Prefilled, told: bytes, decode: Body
) -> None:
    adapter = ADAPTERS[kind]
    assert not adapter.together
    assert (adapter.prefill(TRANSFER), adapter.asks(TRANSFER)) == (prefill, asks)
    assert adapter.decode(TRANSFER, prefilled, told) == decode
    assert adapter.leased == bool(decode)  # what is claimed by parameters can be gone


def test_sglang_s_sides_meet_in_one_room() -> None:
    adapter = ADAPTERS["sglang"]
    added = adapter.prefill(TRANSFER)
    assert adapter.together and not adapter.leased and added == adapter.decode(TRANSFER, None, b"")
    assert (added["bootstrap_host"], added["bootstrap_port"]) == ("10.0.0.1", 8998)
    assert 0 <= added["bootstrap_room"] < 1 << 63
    assert adapter.prefill(Transfer("another", "10.0.0.1", 8998))["bootstrap_room"] != added["bootstrap_room"]


def test_a_server_s_address_may_be_of_the_sixth_kind() -> None:
    assert Transfer(NAME, "fd00::1", 8998).server == "http://[fd00::1]:8998"


@given(st.integers(0, 800), st.sampled_from([None, 400]))
def test_nixl_s_parameters_cover_the_prompt_exactly(tokens: int, prompt: int | None) -> None:
    prefilled = done(GIVEN | {"remote_num_tokens": tokens}, tokens=prompt)
    if tokens == prompt:
        ADAPTERS["nixl"].decode(TRANSFER, prefilled, b"")
    else:
        with pytest.raises(Unusable, match="tokens"):
            ADAPTERS["nixl"].decode(TRANSFER, prefilled, b"")


@pytest.mark.parametrize(
    ("engines", "is_ours"),
    [
        ("cmpl-rq~1a2b-0-81d8c8d2", True),
        ("chatcmpl-rq~1a2b-81d8c8d2", True),
        ("resp_rq-1a2b_0-81d8c8d2", True),
        ("cmpl-rq~1a2bc-0-81d8c8d2", False),
        ("cmpl-xrq~1a2b-0-81d8c8d2", False),
        ("cmpl-rq~1a2b.2-0-81d8c8d2", False),  # of another attempt
        ("rq~1a2b", False),
        ("", False),
    ],
)
def test_engines_names_carry_ours(engines: str, is_ours: bool) -> None:
    assert is_named(engines, NAME) == is_ours


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {
                "choices": [{"finish_reason": "length", "text": "a"}],
                "usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}},
                "kv_transfer_params": {"a": 1},
            },
            Prefilled("length", {"a": 1}, 7, 4),
        ),
        (
            {"choices": [{"finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 7}},
            Prefilled("stop", None, 7, None),
        ),
        (
            {"stop_reason": "max_tokens", "usage": {"input_tokens": 1, "cache_read_input_tokens": 4}},
            Prefilled("length", None, 5, 4),
        ),
        (
            {"stop_reason": "end_turn", "usage": {"input_tokens": 1, "cache_creation_input_tokens": 2}},
            Prefilled("stop", None, 3, None),
        ),
        (
            {"status": "incomplete", "usage": {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}}},
            Prefilled("length", None, 7, 0),
        ),
        ({"status": "completed"}, Prefilled("stop", None, None, None)),
        ({"choices": [{"finish_reason": "abort"}]}, Prefilled("", None, None, None)),
        ({"choices": [{"finish_reason": None}], "usage": None}, Prefilled("", None, None, None)),
        ({"status": "failed"}, Prefilled("", None, None, None)),
        ({}, Prefilled("", None, None, None)),
    ],
)
def test_answers_of_every_api_are_read(body: Body, expected: Prefilled) -> None:
    assert read_prefilled(json.dumps(body).encode()) == expected


TEXT = {"messages": [{"role": "user", "content": "hi"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:"}}
USED = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {}}]}


@pytest.mark.parametrize(
    ("path", "body", "can"),
    [
        (COMPLETIONS, {"prompt": "hi"}, True),
        (COMPLETIONS, {"prompt": [1, 2]}, True),
        (COMPLETIONS, {"prompt": "hi", "n": 1, "best_of": None, "echo": False, "logprobs": 3}, True),
        (COMPLETIONS, {"prompt": ["hi"]}, False),
        (COMPLETIONS, {"prompt": ["hi", "you"]}, False),
        (COMPLETIONS, {"prompt": [[1, 2]]}, False),
        (COMPLETIONS, {"prompt": []}, False),
        (COMPLETIONS, {}, False),
        (COMPLETIONS, {"prompt": "hi", "n": 2}, False),
        (COMPLETIONS, {"prompt": "hi", "best_of": 2}, False),
        (COMPLETIONS, {"prompt": "hi", "echo": True}, False),
        (COMPLETIONS, {"prompt": "hi", "prompt_logprobs": 1}, False),
        (COMPLETIONS, {"prompt": "hi", "use_beam_search": True}, False),
        (COMPLETIONS, {"prompt": "hi", "suffix": "x"}, False),
        (COMPLETIONS, {"prompt": "hi", "kv_transfer_params": {"a": 1}}, False),
        (COMPLETIONS, {"prompt": "hi", "cache_salt": "s"}, True),
        (CHAT, TEXT, True),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, True),
        (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, True),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, PICTURE]}]}, False),
        (CHAT, {"messages": []}, False),
        (CHAT, {"messages": "hi"}, False),
        (CHAT, {"messages": ["hi"]}, False),
        (CHAT, TEXT | {"n": 3}, False),
        (MESSAGES, TEXT, True),
        (MESSAGES, TEXT | {"thinking": {"type": "enabled", "budget_tokens": 9}}, False),
        (MESSAGES, TEXT | {"thinking": {"type": "disabled"}}, True),
        (MESSAGES, {"messages": [{"role": "user", "content": [USED | {"content": "done"}]}]}, True),
        (MESSAGES, {"messages": [{"role": "user", "content": [USED]}]}, False),
        (RESPONSES, {"input": "hi"}, True),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, True),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, True),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, False),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, False),
        (RESPONSES, {"input": "hi", "previous_response_id": "resp_1"}, False),
        (RESPONSES, {"input": "hi", "background": True}, False),
        (RESPONSES, {"input": "hi", "tools": [{"type": "function", "name": "f"}]}, True),
        (RESPONSES, {"input": "hi", "tools": [{"type": "code_interpreter"}]}, False),
        (RESPONSES, {}, False),
        ("/v1/embeddings", {"input": "hi"}, False),
        ("/tokenize", {"prompt": "hi"}, False),
    ],
)
def test_only_one_prompt_of_text_that_is_answered_once_can_be_split(path: str, body: Body, can: bool) -> None:
    assert is_splittable(path, body) == can


def test_salts_are_split_only_where_they_are_kept_apart() -> None:
    body = {"prompt": "hi", "cache_salt": "s"}
    assert is_splittable(COMPLETIONS, body, salted=True) and not is_splittable(COMPLETIONS, body, salted=False)
    assert [kind for kind, adapter in ADAPTERS.items() if not adapter.salted] == ["files"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.text().map(lambda name: f"x-{name}"), JSON, min_size=1, max_size=4)


@given(BODIES, st.booleans())
def test_fields_are_added_before_the_clients_own_bytes(body: Body, spaced: bool) -> None:
    raw = json.dumps(body, indent=1 if spaced else None).encode()
    raw = b" \n" + raw if spaced else raw
    more = {"kv_transfer_params": {"a": [1]}}
    made = with_fields(raw, more)
    assert json.loads(made) == body | more and made.endswith(raw.lstrip()[1:])
    assert with_fields(raw, {}) is raw


@given(st.sampled_from([COMPLETIONS, CHAT, MESSAGES, RESPONSES]), BODIES, st.integers(2, 99))
def test_the_prefill_step_asks_the_same_for_one_token(path: str, body: Body, limit: int) -> None:
    wish = {
        "max_tokens": limit,
        "min_tokens": limit,
        "stream": True,
        "stream_options": {},
        "stop": ["x"],
        "store": True,
    }
    made = json.loads(one_token(path, json.dumps(body | wish).encode(), {"kv_transfer_params": PLEASE}, NAME))
    assert made["kv_transfer_params"] == PLEASE and made["stream"] is False
    assert not {"min_tokens", "stream_options", "stop"} & set(made)
    limits = {"max_tokens", "max_completion_tokens", "max_output_tokens"} & set(made)
    assert limits and (path == RESPONSES or all(made[name] == 1 for name in limits))
    assert {name: value for name, value in made.items() if name.startswith("x-")} == body
    if path == RESPONSES:  # which stores what it made, under a name of its own, unless it is told otherwise
        assert (made["max_output_tokens"], made["store"], made["request_id"]) == (1, False, "resp_rq-1a2b")


SENT = {
    "kv_transfer_params",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "request_id",
    "extra_args",
    "vllm_xargs",
}


def test_no_client_sets_what_connectors_set() -> None:
    assert set(FORBIDDEN_FIELDS) >= SENT
    for name in SENT:
        for body in ({"model": "m", name: {}}, {"model": "m", "sampling_params": {name: {}}}):
            with pytest.raises(ClientError, match=name):
                inspect_json(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (COMPLETIONS, {"truncate_prompt_tokens": -1}),
        (COMPLETIONS, {"truncate_prompt_tokens": 9}),
        (COMPLETIONS, {"prompt_logprobs": 0}),
        (RESPONSES, {"truncation": "auto"}),
    ],
)
def test_a_prompt_that_is_another_one_for_one_token_is_not_split(path: str, more: dict[str, Any]) -> None:
    plain = {"prompt": "hi", "input": "hi", "truncation": "disabled", "truncate_prompt_tokens": None}
    assert is_splittable(path, plain) and not is_splittable(path, plain | more)
