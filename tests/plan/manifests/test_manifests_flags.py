"""Flags of engines: laws over every layout, then what the example plans say; ports never meet."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_plans import HOSTS, NAMES, fleet
from msgspec.structs import replace

from pilothouse.core.events import Role
from pilothouse.live.launch_command import name_of, split_options, value_of
from pilothouse.perf.gpus import GPUS
from pilothouse.plan.document import Layout, Objective, Plan, PoolPlan
from pilothouse.plan.manifests.accelerators import OTHERS, OWN_LABEL, accelerator
from pilothouse.plan.manifests.flags import APART, EVENTS, EXCHANGE, HTTP, REPLAY, Place, variables, words
from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.order import Fleet, Order, Weights, nodes
from pilothouse.plan.manifests.placing import seats
from pilothouse.plan.manifests.refusals import problems

degrees = st.sampled_from([1, 2, 4, 8])
layouts = st.builds(
    Layout, tp=degrees, pp=degrees, dp=degrees, expert_parallel=st.booleans(), dcp=st.sampled_from([1, 2]), pcp=degrees
)


def one_pool(pool: PoolPlan, weights: str = "hf://some/model") -> Order:
    plan = Plan(name="p", model="some/model", pools=[pool], objective=Objective(), workload=None)
    return Order(plan=plan, weights=Weights(weights))


@given(
    layouts,
    st.sampled_from(Role),
    st.lists(st.sampled_from(["--max-num-seqs 7", "--enforce-eager", "--port=9", '--kv-events-config {"a": 1}'])),
    st.dictionaries(st.sampled_from(["dram", "disk"]), st.floats(1, 500)),
)
def test_no_flag_twice_and_the_users_win(
    layout: Layout, role: Role, engine_args: list[str], tiers: dict[str, float]
) -> None:
    pool = PoolPlan(
        name="a", replicas=1, layout=layout, gpu="h100_sxm", role=role, connector="nixl", max_num_seqs=3, tiers=tiers,
        engine_args=list(dict.fromkeys(engine_args)),
    )  # fmt: skip
    options = split_options(words(one_pool(pool), pool, Place(model="m", leader="x")))
    named = [name_of(option) for option in options]
    assert len(named) == len(set(named))
    if "--max-num-seqs 7" in engine_args:
        assert value_of(options, "--max-num-seqs") == "7"
    for name, degree in (("tensor", layout.tp), ("pipeline", layout.pp), ("data", layout.dp)):
        assert value_of(options, f"--{name}-parallel-size") == (str(degree) if degree > 1 else None)
    assert (value_of(options, "--nnodes") is not None) == (nodes(pool) > 1)


@pytest.mark.parametrize("name", NAMES)
def test_engines_on_one_machine_share_neither_gpus_nor_ports(name: str) -> None:
    asked = fleet(name)
    taken = seats(asked, len(HOSTS))
    for machine in {seat.machine for seat in taken}:
        here = [seat for seat in taken if seat.machine == machine]
        gpus = [gpu for seat in here for gpu in seat.gpus]
        assert len(gpus) == len(set(gpus)) <= here[0].pool.gpus_per_node
        assert len({seat.number for seat in here}) == len(here)
        assert len({seat.pool.gpu for seat in here}) == 1
        for first, second in pairwise((EXCHANGE, EVENTS, REPLAY, HTTP)):
            assert first + APART * (max(seat.number for seat in here) + 1) <= second
    assert sum(len(seat.gpus) for seat in taken) == sum(order.plan.gpus for order in asked.orders)


@pytest.mark.parametrize(
    ("precision", "weights", "flag"),
    [
        ("bf16", "hf://some/model", None),
        ("fp8", "hf://some/model", "fp8"),
        ("fp8", "hf://some/model-FP8", None),  # the checkpoint says it itself
        ("int4", "hf://some/model-AWQ", None),
    ],
)
def test_quantisation_is_asked_for_where_the_checkpoint_does_not_bring_it(
    precision: str, weights: str, flag: str | None
) -> None:
    pool = PoolPlan(name="a", replicas=1, layout=Layout(), gpu="h100_sxm", precision=precision)
    said = split_options(words(one_pool(pool, weights), pool, Place()))
    assert value_of(said, "--quantization") == flag
    assert problems(Fleet((one_pool(pool, weights),))) == []


@pytest.mark.parametrize(
    ("layout", "precision", "where"),
    [
        (Layout(), "int4", "pools[0].precision"),
        (Layout(tp=2, dcp=3), "bf16", "pools[0].layout.dcp"),
        (Layout(tp=16, dp=2), "bf16", "pools[0].layout.dp"),
        (Layout(tp=0), "bf16", "pools[0].layout"),
        (Layout(tp=3, dp=3), "bf16", "pools[0].layout"),
    ],
)
def test_what_cannot_run_is_refused_with_its_place(layout: Layout, precision: str, where: str) -> None:
    pool = PoolPlan(name="a", replicas=1, layout=layout, gpu="h100_sxm", precision=precision)
    assert where in [problem.where for problem in problems(Fleet((one_pool(pool),)))]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"tiers": {"dram": -4.0}}, "pools[0].tiers.dram"),
        ({"tiers": {"dram": 1e300}}, "pools[0].tiers.dram"),
        ({"precision": "fp7"}, "pools[0].precision"),
        ({"max_model_len": -1}, "pools[0].max_model_len"),
        ({"max_num_seqs": 0}, "pools[0].max_num_seqs"),
        ({"layout": Layout(tp=3)}, "pools[0].layout"),
        ({"engine_args": ["--port 9000"]}, "pools[0].engine_args"),
        ({"engine_args": ["--served_model_name=x"]}, "pools[0].engine_args"),
        ({"engine_args": ["-tp 4"]}, "pools[0].engine_args"),
        ({"engine_args": ["--seed", "1", "--data-parallel-size", "4"]}, "pools[0].engine_args"),
        ({"engine_args": ["four"]}, "pools[0].engine_args"),
        ({"engine_args": ["--revision 'main"]}, "pools[0].engine_args"),
    ],
)
def test_what_an_engine_would_not_start_with_is_refused(wrong: dict[str, Any], where: str) -> None:
    (order,) = fleet("single").orders
    pools = [replace(order.plan.pools[0], **wrong)]
    refused = replace(order, plan=replace(order.plan, pools=pools))
    assert where in [problem.where for problem in problems(Fleet((refused,)))]


def test_both_sides_of_a_pair_have_the_same_kind_of_connector() -> None:
    (split,) = fleet("prefill_decode").orders
    configs = [
        json.loads(value_of(split_options(words(split, pool, Place())), "--kv-transfer-config") or "")
        for pool in split.plan.pools
    ]
    inner = [[each["kv_connector"] for each in config["kv_connector_extra_config"]["connectors"]] for config in configs]
    assert [config["kv_connector"] for config in configs] == ["MultiConnector"] * 2
    assert inner == [["NixlConnector", "OffloadingConnector"], ["NixlConnector"]]
    prefill = variables(split.plan.pools[0], Place(address="10.0.0.7", number=2))
    assert prefill["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "10.0.0.7"
    assert prefill["VLLM_NIXL_SIDE_CHANNEL_PORT"] == str(EXCHANGE + 2 * APART)


@given(st.text(max_size=80))
def test_any_plan_has_a_name_that_kubernetes_takes(name: str) -> None:
    plan = Plan(name=name, model="m", pools=[], objective=Objective(), workload=None)
    made = Order(plan=plan, weights=Weights("hf://m/m")).name
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made) and len(made) <= 32


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_of_the_catalogue_has_a_label_or_is_refused(name: str) -> None:
    found = accelerator(name)
    if isinstance(found, str):
        assert name.startswith(OTHERS) and "for NVIDIA and AMD" in found
    else:
        assert found.label != OWN_LABEL and found.products and Images().of(found.image)


def test_a_gpu_of_ones_own_has_a_label_of_ones_own() -> None:
    found = accelerator("gpus/My card (v2).yaml")
    assert not isinstance(found, str) and (found.label, found.products) == (OWN_LABEL, ("My-card--v2",))
