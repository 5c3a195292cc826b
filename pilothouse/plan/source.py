"""Where advice starts from: a journal, a recorded trace, a workload file or a scenario, as a workload and what is known of it."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from pilothouse import build
from pilothouse.config.load import read_text, read_yaml
from pilothouse.config.scenario_load import scenario_from_data
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.journal import asked as recorded
from pilothouse.journal.asked import ASIDE, Asked
from pilothouse.journal.day import read_day
from pilothouse.journal.log import segments
from pilothouse.plan import prometheus
from pilothouse.plan.prometheus import address, is_prometheus
from pilothouse.workload.requests import Stage, Workload, total_requests
from pilothouse.workload.spec import Recipe

WHERE = "SOURCE"
KINDS = (
    "a journal's directory, a trace (*.jsonl, *.csv, sessions of agents as *.json), a workload file (*.yaml) or "
    "prometheus:http://HOST:PORT"
)
USERS = 10  # who play recorded sessions at a time, where no workload file says how many
MADE_UP = "the trace does not say what prompts share: conversations are made up, as its workload kind describes"


class Source(msgspec.Struct, frozen=True):
    """What is asked for. What the fleet is, as far as the source knows it, is zero where it does not."""

    name: str
    workload: Workload
    notes: list[str] = []
    engines: int = 0
    kv_tokens: int = 0  # that all engines hold together
    token_bytes: int = 0  # KV of one token
    cached_ratio: float | None = None  # of prompt tokens, as engines reported: Measured
    said: Any = None  # a workload as in a file, where the source itself is none; its `file` is the source


def read_source(path: Path, served: str = "", seed: int = 1, load: float = 1.0) -> Source:
    """`served`: which model of a journal or of Prometheus. Raises ConfigError and JournalError."""
    if is_prometheus(str(path)):  # as an argument that is a path otherwise
        data, notes = prometheus.read(prometheus.Wanted(address(str(path)), served))
        return _made(path, data, notes, seed, load)
    if path.is_dir() and segments(path):
        return _journal(path, served)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(path, seed, load)
    if path.is_dir() and not any(path.glob("*.json")):
        raise ConfigError([Problem(WHERE, f"{path} holds neither a journal nor sessions (*.json); it must be {KINDS}")])
    if path.is_dir() or path.suffix == ".json":
        users = {"users": USERS, "count": max(USERS, len(list(path.glob("*.json"))))}
        notes = [f"{USERS} sessions at a time; write a workload file to say otherwise"]
        return _made(path, {"kind": "agentic_trace", "file": path.name, "stages": [users]}, notes, seed, load)
    return _made(path, *_trace(path), seed, load)


def read_given(where: str, path: Path, served: str = "", seed: int = 1, load: float = 1.0) -> Source:
    """As `read_source`, where an option or a field names the source."""
    try:
        return read_source(path, served, seed, load)
    except ConfigError as error:
        named = [
            Problem(where if problem.where == WHERE else problem.where, problem.what) for problem in error.problems
        ]
        raise ConfigError(named) from None


def _trace(path: Path) -> tuple[dict[str, Any], list[str]]:
    """As what kind of workload a bare trace is read, and what to say of it."""
    try:
        with path.open("rb") as file:
            first = file.readline()
    except OSError as error:
        raise ConfigError([Problem(WHERE, f"cannot read {path}: {error.strerror}; it must be {KINDS}")]) from None
    if path.suffix == ".csv":
        return {"kind": "azure", "file": path.name}, [MADE_UP]
    if b'"input_tok_ids"' in first:
        return {"kind": "sharegpt", "file": path.name}, []
    if b'"hash_ids"' in first:
        return {"kind": "mooncake", "file": path.name}, []
    raise ConfigError([Problem(WHERE, f"{path} is none of these: {KINDS}")])


def _made(path: Path, data: dict[str, Any], notes: list[str], seed: int, load: float) -> Source:
    recipe = read_workload(data, path.parent)
    return Source(path.name, _workload(recipe, path, seed, load), notes, said=data)


def _yaml(path: Path, seed: int, load: float) -> Source:
    try:
        text = read_text(path)
    except ConfigError as error:
        raise ConfigError([Problem(WHERE, f"{problem.where} {problem.what}") for problem in error.problems]) from None
    data = read_yaml(text, str(path))
    if not isinstance(data, dict) or "pools" not in data:
        return Source(path.name, _workload(read_workload(path.name, path.parent), path, seed, load))
    ready = scenario_from_data(data, str(path), path.parent)
    pools = ready.scenario.pools
    specs = [build.engine_spec(pool) for pool in pools]
    tokens = sum(spec.kv_blocks * spec.block_size * pool.replicas for spec, pool in zip(specs, pools, strict=True))
    engines = sum(pool.replicas for pool in pools)
    return Source(path.name, _workload(ready.recipe, path, seed, load), [], engines, tokens)


def _workload(recipe: Recipe, path: Path, seed: int, load: float) -> Workload:
    workload = recipe.make(seed, load)
    if not total_requests([stage for stage in workload.stages if stage.reported]):
        raise ConfigError([Problem(WHERE, f"{path} makes no request")])
    return workload


def _journal(path: Path, served: str) -> Source:
    day = read_day(path)
    try:
        given = recorded.asked(day, served)
    except ConfigError as error:
        renamed = [Problem("--served-name" if p.where == "--model" else WHERE, p.what) for p in error.problems]
        raise ConfigError(renamed) from None
    serving = recorded.serving(day, given.models)
    seen = [engine.seen for engine in day.there if engine.seen.endpoint in serving]
    known = all(engine.kv_blocks and engine.block_size for engine in seen)
    return Source(
        path.name,
        _all_count(given.workload),
        [] if known else ["some engines did not say how much they hold"],
        len(seen),
        sum(engine.kv_blocks * engine.block_size for engine in seen) if known else 0,
        max((engine.kv_token_bytes for engine in seen), default=0),
        _cached(given),
    )


def _all_count(workload: Workload) -> Workload:
    """Requests whose end is not known are asked for like the others, and are no class."""

    def counted(stage: Stage) -> Stage:
        requests = [replace(p, tenant="") if p.tenant == ASIDE else p for p in stage.requests]
        return replace(stage, requests=requests)

    return replace(workload, stages=[counted(stage) for stage in workload.stages])


def _cached(given: Asked) -> float | None:
    """Share of prompt tokens that engines found in their caches, over requests of which they said so."""
    found = prompt = 0
    for ask in given.asks.values():
        if ask.done is not None and ask.done.cached_tokens is not None:
            found += ask.done.cached_tokens
            prompt += ask.done.prompt_tokens or ask.arrived.prompt_tokens
    return found / prompt if prompt else None
