"""Scaling: numbers are KEDA's, and what it asks Prometheus for is what engines and gateway really export."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_plans import fleet, scaled
from msgspec.structs import replace

from pilothouse.config.load import load
from pilothouse.core.events import Role
from pilothouse.live.inspect import NAMES as METRICS
from pilothouse.plan.document import Bound, Confidence, Expected
from pilothouse.plan.manifests.ground import Ground, Scaling
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.scaling import ENGINE_SERIES, GATEWAY_SERIES, query, threshold
from pilothouse.plan.manifests.targets import render

EXPECTED = Expected(
    ttft_s=0.5, tpot_s=0.02, ttft_band=0.3, tpot_band=0.1, output_per_s=4000, requests_per_s=20, requests_per_s_max=25,
    kv_tokens=10**6, utilisation=0.5, bound=Bound.COMPUTE, usd_per_hour=1, usd_per_m_input=1, usd_per_m_output=1,
    usd_per_m=1, confidence=Confidence.ESTIMATED,
)  # fmt: skip


def objects(name: str, kind: str, target: str = "kubernetes", **ground: Any) -> list[dict[str, Any]]:
    made = render(fleet(name, **ground), target)
    return [each for file in made for each in yaml.safe_load_all(file.text) if each.get("kind") == kind]


def test_scaled_pools_leave_their_replicas_to_keda() -> None:
    (scaler,) = objects("grid", "ScaledObject", **scaled("kubernetes"))
    deployments = objects("grid", "Deployment", **scaled("kubernetes"))
    counts = {each["metadata"]["name"]: each["spec"].get("replicas") for each in deployments}
    assert scaler["spec"]["scaleTargetRef"]["name"] == "grid-bulk" and scaler["spec"]["minReplicaCount"] == 0
    assert scaler["metadata"]["labels"]["pilothouse.io/class"] == "batch"
    assert counts == {"grid-interactive": 2, "grid-bulk": None, "grid-gateway": 1}


def test_series_are_those_that_are_exported() -> None:
    assert (METRICS["vllm"].running, METRICS["vllm"].waiting) == ENGINE_SERIES
    text = query(*fleet("single").pools[0], Scaling("main", "chat", 1, 4))
    assert set(re.findall(r"sum\((\S+?)\{", text)) == {*ENGINE_SERIES, GATEWAY_SERIES}


def test_labels_in_a_query_are_given_to_the_series() -> None:
    """By prometheus-operator, of the pods' labels."""
    monitors = objects("grid", "PodMonitor", **scaled("kubernetes"))
    (scaler,) = objects("grid", "ScaledObject", **scaled("kubernetes"))
    given = {re.sub(r"[./-]", "_", label) for each in monitors for label in each["spec"]["podTargetLabels"]}
    asked = set(re.findall(r"(\w+)=", scaler["spec"]["triggers"][0]["metadata"]["query"]))
    assert asked - {"model"} <= given


@pytest.mark.parametrize(("least", "absent_is_none"), [(0, True), (1, False)])
def test_engines_without_series_are_a_fault_unless_there_may_be_none(least: int, absent_is_none: bool) -> None:
    text = query(*fleet("single").pools[0], Scaling("main", "chat", least, 4))
    engines = text.partition(GATEWAY_SERIES)[0]
    assert ("or vector(0)" in engines) == absent_is_none
    (scaler,) = objects("single", "ScaledObject", scaling=(Scaling("main", "chat", least, 4),))
    assert scaler["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert scaler["spec"]["fallback"]["replicas"] == 4


def test_requests_wait_for_the_first_engine_as_long_as_it_may_take() -> None:
    for least, longer in ((0, True), (1, False)):
        (config,) = objects("single", "ConfigMap", scaling=(Scaling("main", "chat", least, 4),))
        waiting = load(config["data"]["pilothouse.yaml"]).timeouts.waiting
        assert (waiting.us > 600_000_000) == longer


def test_other_timeouts_of_a_plan_do_not_shorten_that() -> None:
    made = fleet("single", scaling=(Scaling("main", "chat", 0, 4),))
    plan = replace(made.orders[0].plan, gateway={"timeouts": {"connect": "1s"}})
    files = render(Fleet((replace(made.orders[0], plan=plan),)), "kubernetes")
    (config,) = [e for f in files for e in yaml.safe_load_all(f.text) if e.get("kind") == "ConfigMap"]
    timeouts = load(config["data"]["pilothouse.yaml"]).timeouts
    assert timeouts.waiting.us > 600_000_000 and timeouts.connect.us == 1_000_000


@pytest.mark.parametrize(
    ("role", "requests"),
    [(Role.BOTH, 22), (Role.PREFILL, 2), (Role.DECODE, 20)],  # 20/s x (0.5 s + 200 tokens x 0.02 s) / 4 engines
)
def test_another_engine_is_wanted_beyond_what_the_plan_expects(role: Role, requests: int) -> None:
    (order,) = fleet("single").orders
    pool = replace(order.plan.pools[0], role=role)
    expecting = replace(order, plan=replace(order.plan, pools=[pool], expected=EXPECTED))
    assert threshold(expecting, pool, Scaling("main", "chat", 1, 4)) == requests
    assert threshold(expecting, pool, Scaling("main", "chat", 1, 4, requests=7)) == 7
    assert threshold(order, pool, Scaling("main", "chat", 1, 4)) == 64  # half of max_num_seqs


@pytest.mark.parametrize(
    ("url", "namespace"),
    [("http://prometheus-operated.monitoring:9090", "monitoring"), ("http://p.obs.svc:9090/x", "obs"),
     ("http://10.0.0.9:9090", ""), ("http://prometheus:9090", "")],
)  # fmt: skip
def test_who_may_read_metrics_follows_from_where_prometheus_is(url: str, namespace: str) -> None:
    assert Ground(prometheus=url).monitoring == namespace


FLEET = '{app_kubernetes_io_part_of="chat-single",pilothouse_io_pool="main",pod="%s"}'
ENGINES = {
    f"{name}{FLEET % pod}": value
    for pod, values in {"a": (3, 1), "b": (2, 0)}.items()
    for name, value in zip(ENGINE_SERIES, values, strict=True)
}
WAITING = {
    f'{GATEWAY_SERIES}{{app_kubernetes_io_part_of="chat-single",model="{model}"}}': value
    for model, value in {"Qwen/Qwen3-32B": 5, "other": 100}.items()
}


def told(text: str, series: dict[str, float], total: float | None, folder: Path) -> None:
    """Prometheus answers so."""
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool, of Prometheus")
    samples = [] if total is None else [{"labels": "{}", "value": total}]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value} {value}"} for name, value in series.items()],
        "promql_expr_test": [{"expr": text, "eval_time": "1m", "exp_samples": samples}],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def flying(pool: str, *counts: int) -> dict[str, float]:
    """Series of a pool's engines; each has two data-parallel ranks, of which one is idle."""
    where = 'app_kubernetes_io_part_of="hybrid",pilothouse_io_pool="%s",instance="%s",engine="%s"'
    return {
        f"{name}{{{where % (pool, number, rank)}}}": 0 if rank or name != ENGINE_SERIES[0] else count
        for name in ENGINE_SERIES
        for number, count in enumerate(counts)
        for rank in (0, 1)
    }


@pytest.mark.parametrize(
    ("series", "total"),
    [
        (flying("owned", 30, 30, 30), 0),  # three bear 120
        (flying("owned", 50, 50, 50), 30),
        (flying("owned", 20, 20, 20) | flying("rented", 19), 0),  # its own alone never end
        (flying("owned", 50, 50, 50) | flying("rented", 40), 70),
        (flying("rented", 40), None),  # the others cannot be asked
    ],
)
def test_a_pool_that_may_have_none_counts_what_others_cannot_bear(
    series: dict[str, float], total: float | None, tmp_path: Path
) -> None:
    (order,) = fleet("blueprint hybrid").orders
    owned, rented = order.plan.pools
    order = replace(order, plan=replace(order.plan, expected=None, pools=[replace(owned, max_num_seqs=80), rented]))
    assert "owned" not in query(order, rented, Scaling("rented", "chat", 1, 4))
    told(query(order, rented, Scaling("rented", "chat", 0, 4)), series, total, tmp_path)


@pytest.mark.parametrize(
    ("least", "series", "total"),
    [
        (1, ENGINES | WAITING, 11), (0, ENGINES | WAITING, 11),
        (1, ENGINES, 6), (0, ENGINES, 6),
        (1, WAITING, None), (0, WAITING, 5),  # no engine: a fault, or the first one's turn
        (1, {}, None), (0, {}, 0),
    ],
)  # fmt: skip
def test_prometheus_counts_what_is_meant(
    least: int, series: dict[str, float], total: int | None, tmp_path: Path
) -> None:
    told(query(*fleet("single").pools[0], Scaling("main", "chat", least, 4)), series, total, tmp_path)
