"""What an emulated engine does over HTTP: answers, cache, adapters, hand-over, limits, and what clients do to it."""

import http.client
import json
import socket
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq
from emulating import CHAT, COMPLETIONS, FAST, Api, chat, emulated

from pilothouse.core.random_stream import stream
from pilothouse.core.units import Micros, RequestId
from pilothouse.live.inspect import parse_metrics
from pilothouse.sim.blocks import BlockStore
from pilothouse.sim.engine import Engine, Job
from pilothouse.wire.kv_events import BatchDecoder, BlockRemoved, BlockStored, keys_of, parse_message
from rig.engines import wait_until


def test_a_conversation_finds_its_own_answer_in_the_cache(api: Api) -> None:
    first = api.chat("Tell me of the sea. " * 20, max_tokens=64)
    said = first["choices"][0]["message"]["content"]
    turns = [
        *chat("Tell me of the sea. " * 20)["messages"],
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And then?"},
    ]
    second = api.answered(CHAT, {"model": "tiny", "messages": turns, "max_tokens": 4})
    whole = first["usage"]["prompt_tokens"] + 63  # the last token's KV is not there
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == whole // 16 * 16


def test_the_same_prompt_has_the_same_answer_and_others_have_others(api: Api) -> None:
    texts = [api.chat(f"Question {i // 2}", max_tokens=12)["choices"][0]["message"]["content"] for i in range(6)]
    assert texts[::2] == texts[1::2] and len(set(texts)) == 3


def test_its_times_are_those_of_the_simulated_engine(cache: Path) -> None:
    """Told on the wall's clock, sped up, and yet to the microsecond: a late timer moves no step."""
    with emulated(cache, kv_events=False) as (api,):
        api.complete(list(range(100, 1100)), max_tokens=50, ignore_eos=True)
        told_us = [
            api.value(f"{name}_seconds_sum") * FAST * 1e6
            for name in ("time_to_first_token", "request_decode_time", "e2e_request_latency", "inter_token_latency")
        ]
        assert api.emulator is not None
        engine = Engine(api.emulator.engine.spec)
    engine.submit(Job(RequestId("x"), [], 1000, 50), Micros(0))
    ends: list[Micros] = []
    while (at := engine.next_step_us()) is not None:
        ends.append(at)
        engine.step(at)
    first, last = ends[0], ends[-1]
    assert told_us == pytest.approx([first, last - first, last, last - first], abs=2)
    assert api.emulator.engine.spec == engine.spec


@pytest.mark.parametrize(
    ("asked", "tokens", "finish"),
    [({"max_tokens": 7}, 7, "length"), ({"max_completion_tokens": 5}, 5, "length"), ({}, 256, "stop"),
     ({"max_tokens": 3, "min_tokens": 3, "ignore_eos": True}, 3, "length")],
)  # fmt: skip
def test_answers_have_the_length_asked_for(api: Api, asked: dict[str, Any], tokens: int, finish: str) -> None:
    body = {key: value for key, value in chat("Hello").items() if key != "max_tokens"} | asked
    answer = api.answered(CHAT, body)
    assert answer["usage"]["completion_tokens"] == tokens
    assert answer["choices"][0]["finish_reason"] == finish


def test_it_says_everywhere_that_it_is_emulated(api: Api) -> None:
    _, _, headers = api.ask("GET", "/health")
    assert headers["x-emulated"] == "pilothouse"
    assert "emulated" in api.get("/version")["version"]
    assert "emulated" in api.get("/v1/models")["data"][0]["owned_by"]
    assert "emulated" in api.chat("Hello")["system_fingerprint"]
    assert "Emulated." in api.metrics()
    assert api.get("/emulator")[0]["step_time"]["label"] == "Estimated (fitted)"


def test_adapters_come_and_go_and_have_blocks_of_their_own(api: Api) -> None:
    prompt = list(range(100, 164))
    assert api.post("/v1/load_lora_adapter", {"lora_name": "ad2", "lora_path": "p"})[0] == 200
    assert api.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert api.complete(prompt, model="ad2")["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert api.complete(prompt, model="ad2")["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
    listed = {model["id"]: model for model in api.get("/v1/models")["data"]}
    assert listed["ad2"]["parent"] == "tiny" and listed["ad2"]["root"] == "p" and set(listed) == {"tiny", "ad1", "ad2"}
    assert api.post("/v1/unload_lora_adapter", {"lora_name": "ad2"})[0] == 200
    assert api.post(COMPLETIONS, {"model": "ad2", "prompt": prompt})[0] == 404


def test_a_salt_separates(api: Api) -> None:
    prompt = list(range(300, 364))
    for salt, cached in (("a", 0), ("a", 48), ("b", 0)):
        answer = api.complete(prompt, cache_salt=salt)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == cached


def test_the_cache_can_be_emptied(api: Api) -> None:
    prompt = list(range(500, 564))
    api.complete(prompt)
    assert api.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
    assert wait_until(lambda: api.post("/reset_prefix_cache", b"") == (200, {"success": True}), 5)
    assert api.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_prefill_here_decode_there(cache: Path) -> None:
    prompt = [i % 500 + 20 for i in range(1000)]
    with emulated(cache, 2, transfer_gb_per_s=1.0, time_scale=1.0) as (prefill, decode):
        handed = prefill.complete(prompt, max_tokens=1, kv_transfer_params={"do_remote_decode": True})
        params = handed["kv_transfer_params"]
        assert params["do_remote_prefill"] and params["remote_num_tokens"] == 1000
        assert (params["remote_host"], params["remote_port"]) == (prefill.host, prefill.port)
        assert len(params["remote_block_ids"][0]) == 63
        answer = decode.complete(prompt, max_tokens=4, kv_transfer_params=params)
        assert answer["kv_transfer_params"] is None and answer["usage"]["completion_tokens"] == 4
        assert decode.value("prompt_tokens_by_source_total", source="external_kv_transfer") == 992
        assert decode.value("external_prefix_cache_hits_total") == 992
        assert decode.value("prompt_tokens_cached_by_source_total", source="p2p") == 992
        first_s = decode.value("time_to_first_token_seconds_sum")
        assert first_s > 1000 * 64 * 8 * 2 * 128 * 2 / 1e9  # bytes of the prompt's KV over the bandwidth
        again = decode.complete(prompt, kv_transfer_params=params)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == params["remote_prefill_cached_tokens"]
        assert decode.value("external_prefix_cache_hits_total") == 992  # all but the last block was there


def test_a_client_that_leaves_frees_its_place(cache: Path) -> None:
    with emulated(cache, time_scale=0.1) as (api,):
        for stream in (True, False):
            body = json.dumps(chat("Hello", max_tokens=500, stream=stream)).encode()
            with closing(socket.create_connection((api.host, api.port))) as client:
                client.sendall(
                    b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body))
                )
                client.sendall(body)
                assert wait_until(lambda: api.value("num_requests_running") == 1, 10)
            assert wait_until(lambda: api.value("num_requests_running") == 0, 10)
            assert api.value("kv_cache_usage_perc") == 0
        assert api.value("request_success_total", finished_reason="abort") == 2


def test_a_full_queue_is_said(cache: Path) -> None:
    with emulated(cache, time_scale=0.1, sequences_max=1, queued_max=1) as (api,), _sent(api, 2):
        assert wait_until(lambda: api.value("num_requests_waiting") == 1, 10)
        status, answer = api.post(CHAT, chat("Hello"))
        assert status == 503 and answer["error"]["type"] == "Service Unavailable"
        assert api.value("admission_rejections_total", reason="max_num_queued_reqs") == 1


class _sent:
    """So many requests under way."""

    def __init__(self, api: Api, count: int) -> None:
        body = json.dumps(chat("Hello", max_tokens=500)).encode()
        self._clients = [socket.create_connection((api.host, api.port)) for _ in range(count)]
        for client in self._clients:
            client.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)))
            client.sendall(body)

    def __enter__(self) -> "list[socket.socket]":
        return self._clients

    def __exit__(self, *exception: object) -> None:
        for client in self._clients:
            client.close()


def test_faults_come_and_go(cache: Path) -> None:
    with emulated(cache, 2) as (api, other):
        assert api.post("/emulator/faults", {"error_rate": 1.0, "error_status": 503})[0] == 200
        assert api.post(CHAT, chat("Hello"))[0] == 503
        assert other.post(CHAT, chat("Hello"))[0] == 200
        api.post("/emulator/faults", {"disconnect_rate": 1.0, "disconnect_after": 2})
        with pytest.raises((OSError, http.client.HTTPException)):
            api.events(CHAT, chat("Hello", max_tokens=50))
        assert api.ask("DELETE", "/emulator/faults")[0] == 200
        assert api.chat("Hello")["usage"]["completion_tokens"] == 4
        assert api.post("/emulator/faults", {"slow": -1})[0] == 400
        assert api.post("/emulator/faults", {"replica": 7})[0] == 404


def test_a_crash_loses_everything_and_is_over_in_time(cache: Path) -> None:
    with emulated(cache, 2) as (api, other):
        prompt = list(range(100, 164))
        api.complete(prompt)
        started, sources = parse_metrics(api.metrics(), "vllm").started_s, api.get("/kv_event_sources")
        other.post("/emulator/faults", {"replica": 0, "crash": True, "seconds": 0.3})
        assert wait_until(lambda: not _answers(api), 5)
        assert wait_until(lambda: _answers(api), 10)
        assert parse_metrics(api.metrics(), "vllm").started_s > started
        assert api.get("/kv_event_sources") == sources
        assert api.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_who_refuses_is_not_reached_and_finishes_what_it_has(cache: Path) -> None:
    with emulated(cache, 2, time_scale=0.2) as (api, other), _sent(api, 1) as (client,):
        assert wait_until(lambda: other.get("/emulator")[0]["steps"] > 0, 10)
        other.post("/emulator/faults", {"replica": 0, "refuse": True})
        assert wait_until(lambda: not _answers(api), 5)
        other.post("/emulator/faults", {"replica": 0, "slow": 0.01})
        assert wait_until(lambda: _answers(api), 5)
        client.settimeout(20)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_hang_answers_nothing_and_goes_on_afterwards(cache: Path) -> None:
    with emulated(cache, 2) as (api, other), closing(socket.create_connection((api.host, api.port))) as client:
        other.post("/emulator/faults", {"replica": 0, "hang": True})
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        other.ask("DELETE", "/emulator/faults", b'{"replica": 0}')
        assert api.chat("Hello")["usage"]["completion_tokens"] == 4


def _answers(api: Api) -> bool:
    try:
        return api.ask("GET", "/health")[0] == 200
    except OSError:
        return False


def test_events_add_up_to_what_the_engine_holds(cache: Path) -> None:
    """In a cache too small for what is asked, with clients that hang up: evictions, preemptions, aborts."""
    luck = stream(1, "events")
    with emulated(cache, kv_blocks=60, block_size=4, max_model_len=200, loras=("ad1",), time_scale=50.0) as (api,):
        clients = []
        for i in range(150):
            ids = [luck.randrange(3) + 30] * luck.randrange(4, 40) + [luck.randrange(50, 60)] * luck.randrange(1, 60)
            body = {"model": luck.choice(["tiny", "ad1"]), "prompt": ids, "max_tokens": luck.randrange(1, 60)}
            data = json.dumps(body | {"stream": True}).encode()
            client = socket.create_connection((api.host, api.port))
            client.sendall(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (COMPLETIONS.encode(), len(data)) + data
            )
            clients.append(client)
            if i % 5 == 0:
                clients.pop(luck.randrange(len(clients))).close()
        assert wait_until(lambda: api.value("request_success_total") == 150, 30)
        for client in clients:
            client.close()
        assert (
            api.value("num_preemptions_total") > 0 and api.value("request_success_total", finished_reason="abort") > 0
        )
        held, removed = _replayed(api.get("/kv_event_sources")["0"]["replay_endpoint"])
        assert api.emulator is not None
        store = api.emulator.engine.store
        store.check()
        assert held == _contents(store) and removed > 100


def _contents(store: BlockStore) -> set[int]:
    keys, nodes = set[int](), [store._root]
    while nodes:
        node = nodes.pop()
        keys.update(node.keys[node.start : node.end])
        nodes += node.children.values()
    return keys


def _replayed(endpoint: str) -> tuple[set[int], int]:
    """The blocks that an engine's events leave, and how many it removed."""
    held, removed, decoder = set[int](), 0, BatchDecoder()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger, dealer.rcvtimeo = 0, 10_000
        dealer.connect(endpoint)
        dealer.send_multipart([b"", (0).to_bytes(8, "big")])
        while (message := parse_message(dealer.recv_multipart())) is not None:
            for event in decoder.decode(message.payload).events:
                if isinstance(event, BlockStored):
                    keys = keys_of(event.block_hashes)
                    assert event.parent_block_hash is None or event.parent_block_hash in held
                    assert held.isdisjoint(keys) and len(event.tokens()) == 4 * len(keys)
                    held.update(keys)
                elif isinstance(event, BlockRemoved):
                    keys = keys_of(event.block_hashes)
                    assert held.issuperset(keys)
                    held.difference_update(keys)
                    removed += len(keys)
    return held, removed


def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    bodies = [json.dumps(chat("Hello", max_tokens=n)).encode() for n in range(1, 9)]
    with closing(socket.create_connection((api.host, api.port))) as client:
        for body in bodies:
            client.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)))
            client.sendall(body)
        raw = b""
        while raw.count(b'"usage"') < len(bodies):
            raw += client.recv(65_536)
    counts = [part.partition(b",")[0] for part in raw.split(b'"completion_tokens":')[1:]]
    assert [int(count) for count in counts] == list(range(1, 9))


@pytest.mark.parametrize(
    "bad",
    [b"\x16\x03\x01garbage\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
     b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
     b"POST /v1/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_hung_up_on(api: Api, bad: bytes) -> None:
    with closing(socket.create_connection((api.host, api.port))) as client:
        client.sendall(bad)
        client.settimeout(10)
        raw = b""
        while part := _received(client):
            raw += part
    assert not raw or raw.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 431"))
    assert api.ask("GET", "/health")[0] == 200


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(65_536)
    except ConnectionError:
        return b""


def test_a_client_that_does_not_read_holds_nobody_up(cache: Path) -> None:
    """Its answer waits at the engine, in no buffer, and is whole once it reads."""
    with emulated(cache, time_scale=2000.0) as (api,), closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.connect((api.host, api.port))
        body = json.dumps(chat("Hello", max_tokens=8_000, stream=True)).encode()
        client.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)))
        client.sendall(body)
        assert wait_until(lambda: api.value("request_success_total", finished_reason="length") == 1, 30)
        assert api.chat("Others are served")["usage"]["completion_tokens"] == 4
        client.settimeout(20)
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            raw += client.recv(1 << 20)
        assert raw.count(b"finish_reason") == 8_001


def test_a_long_prompt_is_read_beside_the_loop_and_a_longer_one_refused(api: Api) -> None:
    words = " ".join(f"word{i}" for i in range(4000))
    usage = api.chat(words)["usage"]
    assert usage["prompt_tokens"] == api.answered("/tokenize", chat(words))["count"] > 8000
    status, answer = api.post(CHAT, chat(words * 5))
    assert status == 400 and answer["error"]["param"] == "input_tokens"


def test_events_are_numbered_and_can_be_replayed(cache: Path) -> None:
    with emulated(cache) as (api,):
        source = api.get("/kv_event_sources")["0"]
        prompt = list(range(100, 132))
        api.complete(prompt, max_tokens=1)
        api.complete(list(range(200, 232)), max_tokens=1)
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger, dealer.rcvtimeo = 0, 5000
            dealer.connect(source["replay_endpoint"])
            dealer.send_multipart([b"", (0).to_bytes(8, "big")])
            messages = []
            while (message := parse_message(dealer.recv_multipart())) is not None:
                messages.append(message)
        assert [message.sequence for message in messages] == list(range(len(messages)))
        stored = BatchDecoder().decode(messages[0].payload).events[0]
        assert isinstance(stored, BlockStored) and stored.tokens() == prompt and stored.medium == "GPU"
