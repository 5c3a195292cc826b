"""A published ladder: which fleet was measured, under which loads, behind which routers, and what came out.

A file may hold several fleets. Only `router`, `qps`, `model` and `hardware` are needed; what else is missing is taken
from the guide and said.
"""

import csv
import re
from pathlib import Path

import msgspec

from benchmarks.report import say
from pilothouse.core.units import Seconds
from pilothouse.perf.catalog import Gpu, Model, Precision, gpu_named, model_named, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import default_limits, kv_tokens
from pilothouse.policies.profiles import PROFILES
from pilothouse.policies.rivals import RIVALS
from pilothouse.sim.engine import EngineSpec
from pilothouse.workload.shared_prefix import Load, SharedPrefix

BLOCK = 16  # tokens: vLLM's default on GPUs
CONTEXT = 7_700  # mean tokens of one of the workload's sequences, for models whose capacity depends on it
PUBLISHED_KV = {("Qwen/Qwen3-32B", "bf16", "h100_sxm", 2, 0.95): 307_328}  # tokens; the memory model gives 2.7 % more
SCHEDULES_AHEAD = (0, 14)  # vLLM from this version on: asynchronous scheduling by default (its release notes)
WARM_UP = Load(15, Seconds(50.0), reported=False)  # the guide's: each prompt once
METRICS = {"out": "out_tok_s", "itl": "itl_mean_ms", "ttft": "ttft_mean_s", "ttft_p90": "ttft_p90_s"}
LLMD = "llmd_default"
# What names of routers have in them -> profiles to be taken for it, the first that there is.
ROUTERS = (
    (("precise",), ("llmd_precise_prefix", LLMD)),
    (("token_load", "optimized_affinity", "affinity_load"), ("llmd_optimized_baseline", LLMD)),
    (("llm_d", "llmd", "epp", "inference_gateway", "routed"), (LLMD,)),
    (("production_stack", "prefixaware"), ("production_stack_prefix", "sglang_cache_aware")),
    (("sglang", "smg", "cache_aware"), ("sglang_cache_aware",)),
    (("aibrix",), ("aibrix_prefix_cache", "sglang_cache_aware")),
    (("dynamo",), ("dynamo",)),
    (("lmetric",), ("lmetric",)),
    (("pending", "prefill", "lpwl"), ("least_prefill",)),
    (("power", "p2c"), ("power_of_two", "least_requests")),
    (("round", "rr"), ("round_robin",)),
    (("session", "sticky"), ("session_affinity", "session_hash")),
    (("least", "load"), ("least_requests",)),
    (("kube", "k8s", "service", "random", "baseline"), ("kube_service",)),
)


class Rung(msgspec.Struct, frozen=True):
    """One load and what was measured under it."""

    load: Load
    measured: dict[str, float]  # by the names of METRICS, where published


class Ladder(msgspec.Struct, frozen=True):
    """One fleet behind one router."""

    router: str
    model: Model
    precision: Precision
    gpu: Gpu
    replicas: int
    tp: int
    utilisation: float
    version: str
    rungs: list[Rung]

    @property
    def fleet(self) -> str:
        short = self.model.name.rpartition("/")[2]
        return f"{self.replicas}x {short} {self.precision} {self.gpu.name} TP{self.tp} at {self.utilisation:g}"


def read(path: Path) -> list[Ladder]:
    """In the file's order."""
    with path.open() as file:
        rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        same = ("router", "model", "precision", "hardware", "replicas", "tp", "gpu_memory_utilization")
        groups.setdefault(tuple(row.get(name, "") for name in (*same, "engine_version")), []).append(row)
    return [_ladder(part) for part in groups.values()]


def profile_for(router: str) -> str:
    """Which policy stands for a router of this name; says so where that is a guess."""
    known, asked = {**RIVALS, **PROFILES}, re.sub(r"[^a-z0-9]+", "_", router.lower())
    if asked in known:
        return asked
    words = asked.split("_")
    for parts, profiles in ROUTERS:
        if any(part in (words if len(part) < 4 else asked) for part in parts):
            return next(name for name in profiles if name in known)
    say(f"  notice: nothing is known of a router named {router!r}; taken for {LLMD}")
    return LLMD


def engine(ladder: Ladder) -> EngineSpec | None:
    """One replica, from lookups and the memory model; None if the model does not fit."""
    timed = step_time(ladder.model, ladder.gpu, ladder.tp, ladder.precision)
    say(f"  step time: {timed.label}, {timed.source}")
    key = (ladder.model.name, str(ladder.precision), ladder.gpu.name, ladder.tp, ladder.utilisation)
    tokens = kv_tokens(ladder.model, ladder.gpu, ladder.tp, ladder.precision, ladder.utilisation, CONTEXT)
    origin = "memory model"
    if key in PUBLISHED_KV:
        tokens, origin = PUBLISHED_KV[key], f"published for this deployment; the memory model gives {tokens:,}"
    sequences, batched = default_limits(ladder.gpu)
    ahead = int(_version(ladder.version) >= SCHEDULES_AHEAD)
    said = "asynchronous scheduling" if ahead else "no asynchronous scheduling"
    say(f"  KV capacity {tokens:,} tokens per replica ({origin}); {batched:,} tokens per step; {said}")
    spec = SharedPrefix()
    if tokens < spec.shared_tokens + spec.own_tokens + spec.output_tokens + 3 * BLOCK:
        say("  the model leaves no room for one request: nothing to simulate")
        return None
    return EngineSpec(timed, tokens // BLOCK, BLOCK, batched, sequences, steps_ahead=ahead)


def _ladder(rows: list[dict[str, str]]) -> Ladder:
    first = rows[0]
    tp = int(first.get("tp") or 1)
    gpus = re.match(r"(\d+)\s*[xX]", first["hardware"])
    replicas = int(first.get("replicas") or (int(gpus[1]) // tp if gpus else 8))
    defaults = {"replicas": replicas, "tp": tp, "precision": "bf16", "gpu_memory_utilization": 0.9}
    if assumed := [f"{name} = {value}" for name, value in defaults.items() if not first.get(name)]:
        say(f"  notice: not in the file, so assumed: {', '.join(assumed)}")
    return Ladder(
        first["router"],
        model_named(first["model"]),
        precision_named(first.get("precision") or "bf16"),
        gpu_named(first["hardware"]),
        replicas,
        tp,
        float(first.get("gpu_memory_utilization") or 0.9),
        first.get("engine_version", ""),
        [_rung(row) for row in rows],
    )


def _rung(row: dict[str, str]) -> Rung:
    rate = float(row["qps"])
    seconds = float(row.get("stage_seconds") or 30)
    count = int(float(row["n_requests"])) if row.get("n_requests") else int(rate * seconds)
    measured = {name: float(row[column]) for name, column in METRICS.items() if row.get(column)}
    return Rung(Load(rate, Seconds((count + 1e-6) / rate)), measured)


def _version(text: str) -> tuple[int, int]:
    """Major and minor; where none is stated, one of today."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (99, 0)
