"""The configuration that `up` puts in front of the engines it starts."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pilothouse.cli.app import app
from pilothouse.cli.running import Wanted, config_of, stand_ins
from pilothouse.config.load import from_data
from pilothouse.core.events import Role
from pilothouse.live.launch import Replica


def wanted(replicas: int, prefill: int, decode: int, connector: str = "nixl") -> Wanted:
    addresses = ("127.0.0.1:8080", "127.0.0.1:9090")
    counts = (prefill, decode, connector)
    return Wanted("m", replicas, "vllm", (), "", *addresses, 1, "marginal_cost", None, "logs", False, *counts)


def pools(wanted: Wanted, replicas: list[Replica] | None = None) -> list[dict[str, Any]]:
    config = config_of(wanted, stand_ins(wanted) if replicas is None else replicas)
    from_data(config, "up")
    found: list[dict[str, Any]] = config["pools"]
    return found


def test_plain_replicas_are_one_pool_without_a_word_about_roles() -> None:
    (pool,) = pools(wanted(2, 0, 0))
    assert {"name", "role", "connector"}.isdisjoint(pool)
    assert [engine["name"] for engine in pool["endpoints"]] == ["replica-0", "replica-1"]


def test_a_pair_is_two_pools_with_one_connector() -> None:
    prefill, decode = pools(wanted(0, 2, 1, "nixl_push"))
    assert (prefill["role"], decode["role"]) == ("prefill", "decode")
    assert prefill["connector"] == decode["connector"] == {"type": "nixl_push", "lease": "30s"}
    assert [engine["name"] for engine in prefill["endpoints"]] == ["prefill-0", "prefill-1"]


def test_plain_replicas_may_stand_beside_a_pair() -> None:
    assert [pool.get("role", "both") for pool in pools(wanted(1, 1, 1))] == ["both", "prefill", "decode"]


def test_of_mooncake_the_gateway_knows_the_bootstrap_port() -> None:
    prefill, decode = (
        Replica(f"{role}-0", f"http://127.0.0.1:{port}", "", "", Path(), role, port + 100)
        for role, port in ((Role.PREFILL, 1), (Role.DECODE, 2))
    )
    first, second = pools(wanted(0, 1, 1, "mooncake"), [prefill, decode])
    assert (first["connector"].get("port"), second["connector"].get("port")) == (101, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--prefill", "1"], "needs --decode"), (["--prefill=1", "--decode=1", "--connector=x"], "known: nixl")],
)
def test_what_cannot_be_is_said_at_once(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["up", "--model", "m", *words])
    assert result.exit_code == 2 and said in result.output
