"""Launch manifests as tables: which engines they start, and what that pins."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.config.load import read_documents
from pilothouse.core.errors import ConfigError
from pilothouse.live.consistency.facts import Facts
from pilothouse.live.consistency.manifest import Launch, launches
from pilothouse.live.consistency.pinned import Engine, completed, drifts, matching, pinned

KUBERNETES = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: decode}
spec:
  template:
    metadata: {labels: {app: decode}}
    spec:
      containers:
        - name: proxy
          image: envoyproxy/envoy:v1.30
          args: ["-c", "/etc/envoy.yaml"]
        - name: engine
          image: vllm/vllm-openai:v0.32.0
          command: ["/bin/sh", "-c"]
          args:
            - |
              export A=1 && vllm serve /models/m \\
                --block-size 64 --kv-cache-dtype=fp8 \\
                --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}' || sleep 5
          env:
            - {name: PYTHONHASHSEED, value: "42"}
            - {name: TOKEN, valueFrom: {secretKeyRef: {name: s, key: t}}}
---
kind: Service
metadata: {name: decode}
spec: {ports: [{port: 8000}]}
"""
COMPOSE = """
services:
  prefill:
    image: vllm/vllm-openai:v0.31.1
    command: ["--model", "m", "--block-size", "32", "--max-model-len", "8k"]
    environment: [PYTHONHASHSEED=7]
  spare:
    image: vllm/vllm-openai
    command: --model m --port 8002
    environment: {VLLM_ATTENTION_BACKEND: FLASH_ATTN}
  cache: {image: "redis:8", command: redis-server --port 6379}
"""
OWN = """
a: vllm serve m --revision abc
b: {args: [--block-size, "16"], env: {PYTHONHASHSEED: 1}, image: "x:0.30.2"}
c: python -m sglang.launch_server --model-path m --tp 2 --page-size 64 --disaggregation-mode decode
"""
MULTI = json.dumps(
    {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [
        {"kv_connector": "NixlConnector"}, {"kv_connector": "ExampleConnector"}]}}
)  # fmt: skip
SHORT = json.dumps({"kv_connector": "NixlConnector", "kv_connector_extra_config": {"kv_lease_duration": 4}})
LIST = "- {engine: a, args: vllm serve m --revision abc}\n- {name: b, args: vllm serve m}\n"


def read(text: str) -> list[Launch]:
    return launches(read_documents(text, "m.yaml"), "m.yaml")


def of(*words: str, **environment: str) -> Facts:
    return pinned(Launch(("a",), "m.yaml", "vllm", words, environment))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (KUBERNETES, [("decode", "engine")]),
        (COMPOSE, [("prefill",), ("spare",)]),
        (OWN, [("a",), ("b",), ("c",)]),
        (LIST, [("a",), ("b",)]),
        ("kind: List\nitems: [{kind: Pod, metadata: {name: p}, spec: {containers: [{args: [vllm, serve, m]}]}}]", [("p",)]),
    ],
)  # fmt: skip
def test_every_engine_of_a_manifest_is_found_and_nothing_else(text: str, names: list[tuple[str, ...]]) -> None:
    assert [launch.names for launch in read(text)] == names


@pytest.mark.parametrize("text", ["", "a: 1", "[1]", "services: {cache: {image: redis}}", "kind: Service"])
def test_a_manifest_without_engines_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match=r"m\.yaml: starts no engine"):
        read(text)


def test_a_command_line_that_does_not_end_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no command line: No closing quotation"):
        read("a: vllm serve 'm")


def test_a_shell_s_command_is_read_like_one_word_by_word() -> None:
    facts = pinned(read(KUBERNETES)[0])
    assert (facts.model, facts.block_size, facts.cache_dtype, facts.version) == ("/models/m", "64", "fp8", "0.32.0")
    assert (facts.connector, facts.role, facts.lease, facts.hash_seed) == ("nixl", "kv_consumer", "30", "42")
    assert (facts.parallel, facts.speculation, facts.eager) == ("TP 1, PP 1, DP 1", "", "false")


def test_compose_and_our_own_say_the_same_things() -> None:
    prefill, spare = (pinned(launch) for launch in read(COMPOSE))
    assert (prefill.model, prefill.block_size, prefill.max_model_len, prefill.hash_seed) == ("m", "32", "8000", "7")
    assert (prefill.version, spare.version, spare.attention_backend) == ("0.31.1", None, "FLASH_ATTN")
    a, b, c = (pinned(launch) for launch in read(OWN))
    assert (a.model, a.revision) == ("m", "abc") and (b.block_size, b.version, b.hash_seed) == ("16", "0.30.2", "1")
    assert (c.model, c.block_size, c.role, c.connector) == ("m", "64", "decode", "sglang")
    assert c.parallel == "TP 2, PP 1, DP 1"


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("m",), "block_size", None),  # depends on the machine
        (("m",), "connector", ""),
        (("m", "--block_size=64"), "block_size", "64"),
        (("m", "-tp", "4", "--data-parallel-size=2"), "parallel", "TP 4, PP 1, DP 2"),
        (("m", "--max-model-len", "1K"), "max_model_len", "1024"),
        (("m", "--max-model-len", "auto"), "max_model_len", None),
        (("m", "--dtype", "auto"), "dtype", None),
        (("m", "--block-size", "$BLOCK"), "block_size", None),
        (("$MODEL",), "model", None),
        (("m", "--no-enable-prefix-caching"), "prefix_caching", "false"),
        (("m", "--enforce-eager"), "eager", "true"),
        (("m", "--moe-backend", "triton"), "kernels", "moe triton, linear auto"),
        (("m", "--attention-backend", "flash_attn"), "attention_backend", "FLASH_ATTN"),
        (("m", "--kv-transfer-config", "$CONFIG"), "connector", None),
        (("m", "--kv-transfer-config.kv_connector", "MooncakeStoreConnector"), "connector", "mooncake_store"),
        (("m", '--kv-transfer-config={"kv_connector": "NixlPushConnector"}'), "connector", "nixl_push"),
        (("m", "--kv-transfer-config", MULTI), "connector", "multi/nixl+files"),
        (("m", "--kv-transfer-config", SHORT), "lease", "4"),
        (("m", "--kv-transfer-config.kv_connector", "NixlConnector",
          "--kv-transfer-config.kv_connector_extra_config.kv_lease_duration", "4"), "lease", "4"),
        (("m", "--kv-transfer-config.a", "1", "--kv-transfer-config.a.b", "1"), "connector", None),
        (("m", "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'), "speculation",
         "ngram 3 tokens"),
        (("m", "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'), "draft", ""),
        (("m", "--speculative-config", '{"method": "eagle3", "model": "e", "num_speculative_tokens": 3}'), "draft",
         "eagle3 e"),
        (("m", "--speculative-config", '{"model": "e"}'), "speculation", None),
    ],
)  # fmt: skip
def test_what_a_command_line_pins(words: tuple[str, ...], name: str, value: Any) -> None:
    assert getattr(of(*words), name) == value


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(["--a", "--b=", "--kv-transfer-config", "{", "-tp"]))))
def test_any_words_are_read(words: list[str]) -> None:
    assert isinstance(of(*words), Facts)


ENGINES = [
    Engine("a", "p", "http://127.0.0.1:8001"),
    Engine("prefill.ns:8000", "q", "http://prefill.ns:8000"),
    Engine("b", "d", "http://10.0.0.1:8002"),
]


@pytest.mark.parametrize(
    ("name", "port", "found"),
    [
        ("a", None, "a"),
        ("d", None, "b"),  # by its pool
        ("prefill", None, "prefill.ns:8000"),  # by its host
        ("x", 8002, "b"),  # by its port
        ("x", None, None),
    ],
)
def test_a_launch_finds_its_engine(name: str, port: int | None, found: str | None) -> None:
    launch = Launch((name,), "m.yaml", "vllm", ("m", *(("--port", str(port)) if port else ())))
    matched, lost = matching([launch], ENGINES)
    assert list(matched) == ([found] if found else [])
    assert [d.sentence for d in lost] == ([] if found else [
        "m.yaml: x is no engine of the configuration: name it as an endpoint, a pool or a host there"
    ])  # fmt: skip


def test_what_the_engine_tells_wins_and_what_the_manifest_says_otherwise_is_named() -> None:
    launch = Launch(("a",), "m.yaml", "vllm", ("m", "--block-size", "64", "--revision", "abc"))
    told = Facts(block_size="32", model="m")
    whole = completed(told, launch)
    assert (whole.block_size, whole.revision, whole.model) == ("32", "abc", "m")
    assert [d.sentence for d in drifts("a", told, launch)] == ["a runs with block size 32, its manifest m.yaml says 64"]
    assert drifts("a", msgspec.structs.replace(told, block_size="64"), launch) == []
