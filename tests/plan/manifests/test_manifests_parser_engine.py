"""Flags against the real vLLM's own argument parser, with each variable that Kubernetes fills in replaced by a value."""

import re
from argparse import ArgumentError
from typing import Any

import pytest
from manifest_plans import ALL, HOSTS, fleet
from msgspec.structs import replace

from pilothouse.core.events import Role
from pilothouse.plan.document import Layout
from pilothouse.plan.manifests.flags import Place, words
from pilothouse.plan.manifests.kserve import additional
from pilothouse.plan.manifests.order import Adapter, Fleet, nodes
from pilothouse.plan.manifests.placing import seats
from pilothouse.plan.manifests.pods import place_of as pod_place
from pilothouse.plan.manifests.vllm import command, place_of

pytestmark = pytest.mark.engine
ADAPTERS = (Adapter("sql", "hf://org/sql-lora"), Adapter("legal", "hf://org/legal-lora"))


@pytest.fixture(scope="module")
def parser() -> Any:
    pytest.importorskip("vllm", reason="needs vLLM for its argument parser")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(add_help=False, exit_on_error=False))


def lines(asked: Fleet) -> list[list[str]]:
    """Every command line of the plans: by machine, by pod, and of KServe."""
    by_machine = [command(seat, place_of(seat, HOSTS))[3:] for seat in seats(asked)]
    by_pod = [
        words(order, pool, pod_place(order, pool, rank))
        for order, pool in asked.pools
        for rank in ("0", "$(LWS_WORKER_INDEX)")[: 1 + (nodes(pool) > 1)]
    ]
    by_kserve = [additional(order, pool) for order, pool in asked.pools]
    return [["m", *(re.sub(r"\$\([A-Z_]+\)", "1", word) for word in line)] for line in by_machine + by_pod + by_kserve]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapters", [(), ADAPTERS], ids=["plain", "lora"])
@pytest.mark.parametrize("name", ALL)
def test_vllm_understands_every_line(name: str, adapters: tuple[Adapter, ...], parser: Any) -> None:
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    asked = fleet(name, order={"adapters": adapters})
    for line in lines(asked):
        parsed = parser.parse_args(line)
        validate_parsed_serve_args(parsed)
        assert parsed.model_tag == "m"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"kv_precision": "fp4"},
        {"role": Role.PREFILL, "connector": "mooncake"},
        {"role": Role.DECODE, "connector": "nixl_push", "tiers": {"dram": 10.0}},
        {"role": Role.DECODE, "connector": "mooncake", "tiers": {"dram": 10.0, "disk": 20.0}},
        {"layout": Layout(tp=8, pp=2, dp=4, dcp=4, pcp=1)},
        {"layout": Layout(tp=4, pcp=2, expert_parallel=True)},
        {
            "layout": Layout(dp=8, expert_parallel=True),
            "engine_args": ["--enable-eplb", "--eplb-config.window_size 100"],
        },
        {"kv_precision": "fp8", "max_num_seqs": 64, "max_num_batched_tokens": 4096},
        {"tiers": {"dram": 100.0, "nvme": 900.0}},
        {"engine_args": ["--quantization int8_per_channel_weight_only", "--block-size 32"]},
        {"speculation": {"method": "mtp", "num_speculative_tokens": 2}},
        {"max_model_len": 131072, "memory_utilisation": 0.85, "precision": "fp8"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_vllm_understands_every_option(changes: dict[str, Any], parser: Any) -> None:
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    (asked,) = fleet("single").orders
    pool = replace(asked.plan.pools[0], **changes)
    asked = replace(asked, plan=replace(asked.plan, pools=[pool]))
    parsed = parser.parse_args(["m", *words(asked, pool, Place(leader="10.0.0.1"))])
    validate_parsed_serve_args(parsed)
    assert parsed.model_tag == "m"


def test_a_wrong_flag_would_be_noticed(parser: Any) -> None:
    with pytest.raises((SystemExit, ArgumentError)):
        parser.parse_args(["m", "--block-sise", "32"])
