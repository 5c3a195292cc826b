"""A scenario that is wrong says everything that is wrong with it, each with its place; nothing else ever escapes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.config.scenario_load import SIMULATED, load_scenario, policy_named, scenario_from_data
from pilothouse.core.errors import ConfigError
from pilothouse.policies.profiles import DEFAULT

SMALL: dict[str, Any] = {
    "pools": [{"name": "a", "replicas": 2, "model": "qwen3-8b", "gpu": "h100"}],
    "workload": {"kind": "open_loop", "rate": 1, "duration": "5s"},
}


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        scenario_from_data(SMALL | changes, "s")
    return str(caught.value).splitlines()


def pool(**changes: Any) -> list[dict[str, Any]]:
    return [SMALL["pools"][0] | changes]


def fault(**changes: Any) -> list[dict[str, Any]]:
    return [{"kind": "slow", "endpoint": "a-1"} | changes]


def test_the_smallest_scenario() -> None:
    ready = load_scenario(yaml.safe_dump(SMALL))
    assert ready.scenario.policies == [DEFAULT] and ready.scenario.loads == [1.0]
    assert ready.scenario.pools[0].block_size == 16, "the workload's"
    assert ready.recipe.make(1).stages


def test_objectives_of_tenants_are_read() -> None:
    ready = scenario_from_data(SMALL | {"tenants": {"gold": {"ttft": "250ms"}}})
    assert ready.scenario.tenants["gold"].ttft == 250_000


BAD: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"pools": pool(speculation={"method": "eagle"})},
        ["s: pools[0].speculation.method: Expected `str` matching regex '^(eagle3|mtp|draft_model|ngram|medusa|suffix)$'"],
    ),
    (
        {"pools": pool(speculation={"method": "ngram", "draft_tokens": 9})},
        [
            ("s: pools[0].speculation.draft_tokens: needs `batched_tokens` of at least `sequences` x 10, 10240: each decode "
            "takes 10; lower `sequences`, or draft less")
        ],
    ),
    (
        {"pools": pool(model="mixtral-8x7b", tp=2, speculation={"method": "draft_model"})},
        [("s: pools[0].speculation.draft_model: is needed: the catalogue has no small model with the vocabulary of "
         "mistralai/Mixtral-8x7B-v0.1")],
    ),
    (
        {"pools": pool(speculation={"method": "ngram", "draft_model": "qwen3-0.6b"})},
        ["s: pools[0].speculation.draft_model: is for the method draft_model, not for ngram"],
    ),
    (
        {"workload": SMALL["workload"] | {"constrained": 1.5}},
        ["s: workload.constrained: Expected `float` <= 1.0"],
    ),
    ({"pols": []}, ["s: pols: unknown field, did you mean 'pools'?"]),
    ({"workload": {"kind": "open_lop"}}, ["s: workload.kind: unknown kind 'open_lop', did you mean 'open_loop'?"]),
    ({"workload": {"kind": "open_loop", "rate": 1, "duration": "5"}},
     ["s: workload.duration: '5' is not a duration such as 250ms, 30s or 2m"]),
    ({"workload": "nowhere.yaml"}, ["s: workload: cannot read nowhere.yaml: No such file or directory"]),
    ({"pools": pool(model="qwen3-9b")},
     ["s: pools[0].model: unknown model 'qwen3-9b', did you mean 'qwen3-8b' or 'qwen3-4b' or 'qwen3-32b'?"]),
    ({"pools": pool(gpu="h10")}, ["s: pools[0].gpu: unknown GPU 'h10', did you mean 'h100' or 'h20' or 'a10'?"]),
    ({"pools": pool(block_size=32)}, [("s: pools[0].block_size: must be 16, or left out: the workload's prompts are "
                                      "known by keys of blocks of 16 tokens")]),
    ({"pools": pool(batched_tokens=512)}, ["s: pools[0].batched_tokens: must be at least `sequences`, 1024"]),
    ({"pools": pool() + pool()}, ["s: pools[1].name: 'a' is there already"]),
    ({"pools": pool() + pool(name="a-1")}, ["s: pools[1].name: 'a-1' is the name of an engine of another pool"]),
    ({"policies": ["kube_servic"]}, ["s: policies[0]: unknown policy 'kube_servic', did you mean 'kube_service'?"]),
    ({"policies": ["random", "random"]}, [("s: policies[1]: a policy named 'random' is there already, give this one a "
                                          "`name`")]),
    ({"policies": [{"scorers": ["quue_depth"]}]}, [("s: policies[0].scorers[0]: unknown scorer 'quue_depth', did you "
                                                   "mean 'queue_depth'?")]),
    ({"loads": [1, 0, 1]}, ["s: loads[1]: must be more than 0", "s: loads[2]: 1 is there already"]),
    ({"seeds": [2, 2]}, ["s: seeds[1]: 2 is there already"]),
    ({"objectives": {"ttft": "0s"}}, ["s: objectives.ttft: must be more than 0; leave it out if nothing is asked for"]),
    ({"tenants": {"x": {"tft": "1s"}}}, ["s: tenants.x.tft: unknown field, did you mean 'ttft'?"]),
    ({"tenants": []}, ["s: tenants: must be a mapping from a tenant's name to its objectives"]),
    ({"faults": fault(endpoint="a-2")}, ["s: faults[0].endpoint: no engine or pool 'a-2', did you mean 'a-1'?"]),
    ({"faults": fault(kind="crash", lasts="1s")}, [("s: faults[0].lasts: a crash ends by itself, after the pool's "
                                                   "`start_up`")]),
    ({"faults": fault(lasts="0s")}, ["s: faults[0].lasts: must be more than 0; leave it out for a fault that stays"]),
    ({"pools": pool(kv_events=False), "faults": fault(kind="lost_kv_events")},
     ["s: faults[0].kind: pool 'a' reports no KV events that could be lost"]),
    ({"pools": pool(role="prefill")}, ["s: pools: all are prefill pools: nobody answers"]),
    ({"pools": pool(role="prefill") + pool(name="b", role="decode", precision="fp8")},
     ["s: pools[0].role: no decode pool has this model in this precision: nobody can use its KV"]),
    ({"pools": pool(role="prefill") + pool(name="b")},
     ["s: pools[0].role: no decode pool has this model in this precision: nobody can use its KV"]),
    ({"pools": pool(link={"gbps": 3})}, ["s: pools[0].link.gbps: unknown field, did you mean 'gb_per_s'?"]),
    ({"pools": pool(gpu="h10"), "loads": [-1]}, ["s: pools[0].gpu: unknown GPU 'h10', did you mean 'h100' or 'h20' or 'a10'?",
                                                 "s: loads[0]: must be more than 0"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), BAD, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said(changes: dict[str, Any], said: list[str]) -> None:
    assert problems(**changes) == said


def test_a_model_that_does_not_fit_says_how_much_is_missing() -> None:
    (said,) = problems(pools=pool(model="qwen3-32b", gpu="l4"))
    assert said.startswith("s: pools[0]: Qwen/Qwen3-32B in bf16 does not fit on 1 x l4: 4") and "GiB missing" in said


def test_step_times_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"a_us": 1000, "b_us": 1, "c_ns": 1, "p_us": 1, "label": "Measured"}')
    (tmp_path / "bad.json").write_text('{"a_us": -1, "b_us": 1, "c_ns": 1, "p_us": 1}')
    ready = scenario_from_data(SMALL | {"pools": pool(step_time="good.json")}, base=tmp_path)
    assert ready.scenario.pools[0].step_time == str(tmp_path / "good.json")
    with pytest.raises(ConfigError, match=r"pools\[0\].step_time: .*coefficients must not be negative"):
        scenario_from_data(SMALL | {"pools": pool(step_time="bad.json")}, base=tmp_path)
    with pytest.raises(ConfigError, match=r"none.json cannot be read"):
        scenario_from_data(SMALL | {"pools": pool(step_time="none.json")}, base=tmp_path)


def test_every_policy_by_name_is_one() -> None:
    assert {policy_named(name).name for name in SIMULATED} == set(SIMULATED)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = "name pools gateways delays workload policies loads seeds objectives tenants faults".split()


@given(st.sampled_from(FIELDS), plain)
def test_whatever_stands_in_a_field_it_loads_or_is_said(field: str, value: object) -> None:
    try:
        scenario_from_data(SMALL | {field: value}, "s")
    except ConfigError as error:
        assert all(problem.where.startswith("s") and problem.what for problem in error.problems)


@given(plain)
def test_whatever_a_scenario_is_it_loads_or_is_said(value: object) -> None:
    with pytest.raises(ConfigError):
        scenario_from_data(value, "s")
