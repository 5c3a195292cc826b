"""KServe's rules beyond schemas: what is written keeps them, and each one broken by hand is found."""

from typing import Any

import pytest
import yaml
from manifest_plans import NAMES, fleet, scaled

from pilothouse.plan.manifests.order import Adapter
from pilothouse.plan.manifests.targets import render
from pilothouse.plan.manifests.webhook import webhook_problems

KEDA = {"scaling": {"maxReplicas": 2, "wva": {"keda": {}}}}
HPA = {"scaling": {"maxReplicas": 2, "wva": {"hpa": {}}}}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_keeps_the_rules(name: str) -> None:
    ground = scaled("kserve") if name == "grid" else {}
    order = {} if name == "grid" else {"adapters": (Adapter("sql", "hf://org/sql-lora"),)}
    made = [
        each
        for file in render(fleet(name, order=order, **ground), "kserve")
        for each in yaml.safe_load_all(file.text)
        if each["kind"] == "LLMInferenceService"
    ]
    assert made and [problem for each in made for problem in webhook_problems(each)] == []


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"replicas": 1, **KEDA}, ".replicas"),
        ({"scaling": {"maxReplicas": 2, "wva": {}}}, ".scaling.wva"),
        ({"scaling": {"minReplicas": 3, "maxReplicas": 2, "wva": {"keda": {}}}}, ".scaling"),
        ({"scaling": {"maxReplicas": 2, "wva": {"keda": {"advanced": {}}}}}, ".scaling.wva.keda.advanced"),
        ({**KEDA, "prefill": HPA}, ""),
        ({"prefill": {"worker": {}, "parallelism": {"tensor": 8}}}, ".prefill.worker"),
        ({"parallelism": {"data": 2, "dataLocal": 1, "pipeline": 2}}, ".parallelism"),
        ({"parallelism": {"data": 2}}, ".parallelism"),
        ({"kvCacheOffloading": {"secondary": []}}, ".kvCacheOffloading.secondary"),
        ({"model": {"name": "m", "lora": {"adapters": [{"name": "m"}]}}}, ".model.lora.adapters[0].name"),
        ({"router": {"route": {"http": {"spec": {}, "refs": []}}}}, ".router.route.http"),
        ({"router": {"gateway": {}, "route": {"http": {"refs": []}}}}, ".router.route.http.refs"),
        ({"router": {"scheduler": {"config": {}}}}, ".router.scheduler.config"),
    ],
)
def test_each_rule_broken_is_found(spec: dict[str, Any], where: str) -> None:
    service = {"kind": "LLMInferenceService", "metadata": {"name": "x"}, "spec": spec}
    assert [problem.where for problem in webhook_problems(service)] == [f"LLMInferenceService x: spec{where}"]
