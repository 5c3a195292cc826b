"""Rules of KServe's webhook and CEL for LLMInferenceService, which no schema holds. They apply to decode and prefill alike.

source     KServe v0.20.0, admission of LLMInferenceService
"""

from collections.abc import Iterator
from typing import Any

from pilothouse.core.errors import Problem
from pilothouse.plan.manifests.files import Object

KIND = "LLMInferenceService"


def webhook_problems(each: Object) -> list[Problem]:
    """What the cluster would refuse in one object, or nothing for other kinds."""
    if each.get("kind") != KIND:
        return []
    name, spec = f"{KIND} {each['metadata']['name']}", each.get("spec", {})
    found = [Problem(f"{name}: spec{where}", what) for where, what in _workload(spec)]
    if "prefill" in spec:
        found += [Problem(f"{name}: spec.prefill{where}", what) for where, what in _workload(spec["prefill"])]
        actuators = {actuator for part in (spec, spec["prefill"]) for actuator in _actuators(part)}
        if len(actuators) > 1:
            found.append(
                Problem(f"{name}: spec", "decode and prefill must be scaled by the same: both hpa or both keda")
            )
    return found + [Problem(f"{name}: spec.{where}", what) for where, what in [*_adapters(spec), *_router(spec)]]


def _workload(spec: Object) -> Iterator[tuple[str, str]]:
    parallelism = spec.get("parallelism", {})
    if "replicas" in spec and "scaling" in spec:
        yield ".replicas", "give this or `scaling`, not both"
    yield from _scaling(spec)
    if "worker" in spec and not {"data", "pipeline"} & parallelism.keys():
        yield ".worker", "needs data or pipeline parallelism"
    if {"data", "pipeline"} <= parallelism.keys():
        yield ".parallelism", "data and pipeline exclude each other"
    if ("data" in parallelism) != ("dataLocal" in parallelism):
        yield ".parallelism", "data and dataLocal go together"
    offloading = spec.get("kvCacheOffloading", {})
    if "secondary" in offloading and "cpu" not in offloading:
        yield ".kvCacheOffloading.secondary", "needs `cpu`"


def _scaling(spec: Object) -> Iterator[tuple[str, str]]:
    if "scaling" not in spec:
        return
    scaling = spec["scaling"]
    if scaling.get("minReplicas", 1) > scaling.get("maxReplicas", 1):
        yield ".scaling", "minReplicas must not exceed maxReplicas"
    if len(_actuators(spec)) != 1:
        yield ".scaling.wva", "needs exactly one of hpa and keda"
    if "advanced" in scaling.get("wva", {}).get("keda", {}):
        yield ".scaling.wva.keda.advanced", "leave it out: every value is refused"


def _actuators(spec: Object) -> list[str]:
    return [name for name in ("hpa", "keda") if name in spec.get("scaling", {}).get("wva", {})]


def _adapters(spec: Object) -> Iterator[tuple[str, str]]:
    model: dict[str, Any] = spec.get("model", {})
    names = [adapter.get("name", "") for adapter in model.get("lora", {}).get("adapters", [])]
    for i, name in enumerate(names):
        if name in ("", ".", "..", model.get("name")) or name in names[:i]:
            yield f"model.lora.adapters[{i}].name", f"{name!r} is no name of its own"


def _router(spec: Object) -> Iterator[tuple[str, str]]:
    router = spec.get("router", {})
    http = router.get("route", {}).get("http", {})
    if {"spec", "refs"} <= http.keys():
        yield "router.route.http", "give `spec` or `refs`, not both"
    if "refs" in http and router.get("gateway") == {}:
        yield "router.route.http.refs", "not with a default gateway"
    config = router.get("scheduler", {}).get("config")
    if config is not None and len({"inline", "ref"} & config.keys()) != 1:
        yield "router.scheduler.config", "needs exactly one of inline and ref"
