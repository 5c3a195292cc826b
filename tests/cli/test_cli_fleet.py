"""`fleet check` against engines of a few lines: exit statuses, sentences, manifests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pilothouse.cli.app import app

MODEL = "/models/m"
INFO = {"speculative_config": None, "kv_transfer_config": None, "attention_config": {"backend": None}}


@contextmanager
def engines(*settings: dict[str, Any]) -> Iterator[list[str]]:
    """URLs of servers that say what vLLM would; without `info` in its settings, one is not in development mode."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(setting)) for setting in settings]
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(setting: dict[str, Any]) -> type[BaseHTTPRequestHandler]:
    cache = {"block_size": "32", "prefix_caching_hash_algo": "sha256_cbor", "cache_dtype": "auto"} | setting.get(
        "cache", {}
    )
    labels = ",".join(f'{name}="{value}"' for name, value in cache.items())
    answers = {
        "/metrics": f"vllm:num_requests_running 0.0\nvllm:cache_config_info{{{labels}}} 1.0\n",
        "/v1/models": json.dumps({"data": [{"id": "m", "root": MODEL, "max_model_len": 4096}]}),
        "/version": json.dumps({"version": setting.get("version", "0.32.0")}),
    }
    if "info" in setting:
        answers["/server_info?config_format=json"] = json.dumps({"vllm_config": INFO | setting["info"]})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write((answer or "").encode())

        def log_message(self, *parts: object) -> None:
            pass

    return Handler


def config(folder: Path, *pools: dict[str, Any]) -> Path:
    path = folder / "pilothouse.yaml"
    path.write_text(yaml.safe_dump({"pools": list(pools)}))
    return path


def pair(prefill: list[str], decode: list[str], kind: str = "nixl") -> tuple[dict[str, Any], dict[str, Any]]:
    """Engines p0, p1 ... and d0, d1 ..."""
    p, d = (
        {"name": role, "role": role, "connector": {"type": kind},
         "endpoints": [{"url": url, "name": f"{role[0]}{i}"} for i, url in enumerate(urls)]}
        for role, urls in (("prefill", prefill), ("decode", decode))
    )  # fmt: skip
    return p, d


def checked(path: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["fleet", "check", "-c", str(path), *more])


def test_a_fleet_of_equals_passes_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    with engines({}, {}) as (a, b):
        done = checked(config(tmp_path, *pair([a], [b])))
    assert done.exit_code == 0 and done.output.startswith("note\n"), done.output
    assert "p0: the engine does not tell its" in done.output and "hash seed" in done.output
    assert "2 of 2 engines asked: 0 x breaks KV exchange, 0 x breaks comparability, 2 x note" in done.output


def test_what_breaks_exchange_is_named_first(tmp_path: Path) -> None:
    with engines({}, {"cache": {"block_size": "64"}, "version": "0.33.0"}) as (a, b):
        done = checked(config(tmp_path, *pair([a], [b])))
    assert done.exit_code == 1 and done.output.splitlines()[:3] == [
        "breaks KV exchange",
        "  version of prefill pool prefill is 0.32.0 on p0, of decode pool decode 0.33.0 on d0",
        "  block size of prefill pool prefill is 32 on p0, of decode pool decode 64 on d0",
    ]


def test_replicas_that_differ_are_not_comparable(tmp_path: Path) -> None:
    ngram = {"method": "ngram", "num_speculative_tokens": 3}
    with engines({"info": {}}, {"info": {"speculative_config": ngram}}) as (a, b):
        engine = [{"url": url, "name": name} for url, name in ((a, "a"), (b, "b"))]
        done = checked(config(tmp_path, {"endpoints": engine}), "--json")
    report = json.loads(done.output)
    worst = [d for d in report["differences"] if d["breaks"] != "note"]
    assert done.exit_code == 1 and worst == [
        {"breaks": "breaks comparability", "about": "speculation",
         "sentence": "pool default: speculation is none on a; ngram 3 tokens on b"}
    ]  # fmt: skip
    assert report["engines"][1]["facts"]["speculation"] == "ngram 3 tokens"


def test_both_pools_in_the_middle_of_a_rollout(tmp_path: Path) -> None:
    with engines({}, {"version": "0.33.0"}, {}, {"version": "0.33.0"}) as (a, b, c, d):
        done = checked(config(tmp_path, *pair([a, b], [c, d])))
    assert "pool prefill and pool decode both run several versions: change one pool at a time" in done.output


def test_a_manifest_tells_what_engines_do_not(tmp_path: Path) -> None:
    manifest = tmp_path / "launch.yaml"
    transfer = {
        role: json.dumps({"kv_connector": "NixlConnector", "kv_role": role}) for role in ("kv_producer", "kv_consumer")
    }
    lines = {
        "p0": f"vllm serve {MODEL} --block-size 32 --kv-transfer-config '{transfer['kv_producer']}'",
        "decode": {
            "args": f"vllm serve {MODEL} --dtype float16 --kv-transfer-config '{transfer['kv_producer']}'",
            "env": {"PYTHONHASHSEED": "7"},
        },
        "stranger": "vllm serve other",
    }
    manifest.write_text(yaml.safe_dump(lines))
    with engines({}, {}) as (a, b):
        path = config(tmp_path, *pair([a], [b]))
        done = checked(path, "--manifest", str(manifest))
        assert "d0 has role kv_producer, its pool decode: it is paired with nobody" in done.output
        assert "stranger is no engine of the configuration" in done.output and done.exit_code == 1
        lines["decode"]["args"] = f"vllm serve {MODEL} --kv-transfer-config '{transfer['kv_consumer']}'"  # type: ignore[index]
        manifest.write_text(yaml.safe_dump(lines))
        assert checked(path, "--manifest", str(manifest)).exit_code == 0
    engines_gone = checked(path, "--manifest", str(manifest))
    assert engines_gone.exit_code == 0 and "0 of 2 engines asked" in engines_gone.output


def test_an_engine_that_runs_otherwise_than_its_manifest_says(tmp_path: Path) -> None:
    manifest = tmp_path / "launch.yaml"
    manifest.write_text("a: vllm serve /models/m --block-size 64\n")
    with engines({}) as (a,):
        done = checked(config(tmp_path, {"endpoints": [{"url": a, "name": "a"}]}), "--manifest", str(manifest))
    assert done.exit_code == 1 and f"a runs with block size 32, its manifest {manifest} says 64" in done.output


@pytest.mark.parametrize("kind", ["nixl", "mooncake"])
def test_pools_without_partner_are_named(tmp_path: Path, kind: str) -> None:
    with engines({}, {}) as (a, b):
        prefill, decode = pair([a], [b], kind)
        decode["connector"] = {"type": "mooncake"}
        done = checked(config(tmp_path, prefill, decode))
    assert (done.exit_code == 1) == ("no request will be split" in done.output) == (kind == "nixl")


def test_a_fleet_of_which_nothing_is_known_is_no_good_fleet(tmp_path: Path) -> None:
    with engines({}) as (a,):
        path = config(tmp_path, {"endpoints": [{"url": a}]})
    done = checked(path)
    assert done.exit_code == 1 and "no engine answers, and no manifest names one" in done.output
    assert checked(tmp_path / "missing.yaml").exit_code == 2


def test_the_check_of_a_configuration_remarks_on_pools_without_partner(tmp_path: Path) -> None:
    _, decode = pair([], ["http://a:1"])
    done = CliRunner().invoke(app, ["config", "check", "-c", str(config(tmp_path, decode))])
    assert done.exit_code == 0 and "pools[0].connector: no prefill pool has the connector nixl" in done.output
