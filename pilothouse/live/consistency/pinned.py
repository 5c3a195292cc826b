"""What a launch manifest says of an engine, as `Facts`, and which engine it says it of. Pure.

What depends on the machine where it is left out, such as the block size, stays unknown.
"""

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pilothouse.live.consistency.comparing import Difference
from pilothouse.live.consistency.facts import PROPERTIES, Breaks, Facts
from pilothouse.live.consistency.manifest import Launch
from pilothouse.live.consistency.reading import sglang_facts, vllm_facts
from pilothouse.live.launch_command import Option, name_of, split_options, value_of

VERSION_TAG = re.compile(r":v?(\d+\.\d+[\w.+]*)")
COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG])")
UNITS = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}  # as vLLM reads them
SGLANG_NAMES = {"tp": "tp_size", "pp": "pp_size", "dp": "dp_size", "model": "model_path"}


class Engine(msgspec.Struct, frozen=True):
    """By what a manifest may call an engine."""

    name: str
    pool: str
    url: str


def pinned(launch: Launch) -> Facts:
    """All that follows from the command line, the environment and the image's tag."""
    facts = _sglang(launch) if launch.engine == "sglang" else _vllm(launch)
    tag = VERSION_TAG.search(launch.image)
    return msgspec.structs.replace(
        facts, version=tag.group(1) if tag else None, hash_seed=launch.environment.get("PYTHONHASHSEED")
    )


def matching(launches: Sequence[Launch], engines: Sequence[Engine]) -> tuple[dict[str, Launch], list[Difference]]:
    """Engine -> how it is started, and a note for every launch that is nobody's."""
    found: dict[str, Launch] = {}
    used = []
    for engine in engines:
        launch = _launch_of(engine, launches)
        if launch is not None:
            found[engine.name] = launch
            used.append(launch)
    lost = [
        f"{launch.source}: {'/'.join(launch.names) or 'an engine'} is no engine of the configuration: "
        "name it as an endpoint, a pool or a host there"
        for launch in launches
        if launch not in used
    ]
    return found, [Difference(Breaks.NOTE, "", sentence) for sentence in lost]


def completed(told: Facts, launch: Launch) -> Facts:
    """What the engine does not tell, as its manifest says."""
    said = pinned(launch)
    values = {p.name: getattr(told, p.name) for p in PROPERTIES}
    return Facts(**{name: getattr(said, name) if value is None else value for name, value in values.items()})


def drifts(name: str, told: Facts, launch: Launch) -> list[Difference]:
    """Where an engine runs otherwise than its manifest says: the next start will change it."""
    said = pinned(launch)
    pairs = [(p, getattr(told, p.name), getattr(said, p.name)) for p in PROPERTIES]
    return [
        Difference(
            Breaks.COMPARABILITY,
            p.name,
            f"{name} runs with {p.words} {now or 'none'}, its manifest {launch.source} says {then or 'none'}",
        )
        for p, now, then in pairs
        if now is not None and then is not None and now != then
    ]


def _launch_of(engine: Engine, launches: Sequence[Launch]) -> Launch | None:
    parts = urlsplit(engine.url)
    host = parts.hostname or ""
    for called in (engine.name, engine.pool, host, host.partition(".")[0]):
        named = [launch for launch in launches if called and called in launch.names]
        at_port = [launch for launch in named if _port(launch) == parts.port]
        if named:
            return (at_port or named)[0]
    at_port = [launch for launch in launches if _port(launch) == parts.port]
    return at_port[0] if len(at_port) == 1 else None


def _port(launch: Launch) -> int | None:
    given = value_of(split_options(launch.words), "--port")
    return int(given) if given and given.isdigit() else None


def _vllm(launch: Launch) -> Facts:
    """By way of what /server_info would answer."""
    words = launch.words
    model = words[0] if words and not words[0].startswith("-") else None
    options = split_options(words[1:] if model else words)

    def given(name: str) -> str | None:
        value = value_of(options, name)
        return None if not value or "$" in value else value  # a variable of the shell is not known here

    speculative, transfer = _json(options, "--speculative-config"), _json(options, "--kv-transfer-config")
    backend = given("--attention-backend") or launch.environment.get("VLLM_ATTENTION_BACKEND")
    config = {
        "model_config": {
            "model": given("--model") or (model if model and "$" not in model else None),
            "revision": given("--revision"),
            "dtype": _unless(given("--dtype"), "auto"),
            "quantization": given("--quantization"),
            "max_model_len": _count(given("--max-model-len")),
        },
        "cache_config": {
            "block_size": given("--block-size"),
            "cache_dtype": given("--kv-cache-dtype"),
            "prefix_caching_hash_algo": given("--prefix-caching-hash-algo"),
        },
        "parallel_config": {
            f"{kind}_parallel_size": given(f"--{kind}-parallel-size") or 1 for kind in ("tensor", "pipeline", "data")
        },
        "scheduler_config": {
            "max_num_seqs": _count(given("--max-num-seqs")),
            "max_num_batched_tokens": _count(given("--max-num-batched-tokens")),
        },
        "attention_config": {"backend": backend},
        "kernel_config": {
            "moe_backend": given("--moe-backend") or "auto",
            "linear_backend": given("--linear-backend") or "auto",
        },
        "kv_transfer_config": transfer,
        "speculative_config": speculative,
    }
    facts = vllm_facts({"vllm_config": config, "vllm_env": launch.environment})
    if speculative is not None and "method" not in speculative:  # the engine derives it from the draft model
        facts = msgspec.structs.replace(facts, speculation=None, draft=None)
    if transfer is not None and "kv_connector" not in transfer:  # of a variable, say
        facts = msgspec.structs.replace(facts, connector=None, role=None, lease=None, renewal=None)
    return msgspec.structs.replace(
        facts,
        quantization=facts.quantization or None,  # the model's own is found by the engine
        attention_backend=facts.attention_backend if backend else None,  # the environment may say it
        eager=_switch(options, "--enforce-eager") or "false",
        prefix_caching=_switch(options, "--enable-prefix-caching"),
    )


def _switch(options: Sequence[Option], name: str) -> str | None:
    """Of --name and --no-name the last; None = neither is given."""
    given = [option[0] for option in options if name_of(option) == name]
    return str(not given[-1].startswith("--no-")).lower() if given else None


def _sglang(launch: Launch) -> Facts:
    options = split_options(launch.words)
    names = [name_of(option).removeprefix("--").replace("-", "_") for option in options]
    values = [option[0].partition("=")[2] or (option[1] if len(option) > 1 else True) for option in options]
    info: dict[str, Any] = {"tp_size": 1, "pp_size": 1, "dp_size": 1}
    info |= {SGLANG_NAMES.get(name, name): value for name, value in zip(names, values, strict=True)}
    return msgspec.structs.replace(sglang_facts(info), quantization=info.get("quantization"))


def _json(options: Sequence[Option], name: str) -> dict[str, Any] | None:
    """A setting given as one JSON object, field by field (--name.field value), or both."""
    whole = [option for option in options if name_of(option) == name]
    if not whole:
        return None
    found: dict[str, Any] = {}
    for option in whole:
        path = option[0].partition("=")[0].partition(".")[2]
        value = value_of([option], name) or ""
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if not path and isinstance(parsed, dict):
            found |= parsed
        elif path:
            inner = found
            *parents, last = path.split(".")
            for parent in parents:
                below = inner.get(parent)
                inner[parent] = below if isinstance(below, dict) else {}
                inner = inner[parent]
            inner[last] = parsed
    return found


def _count(text: str | None) -> str | None:
    """4096, 4k, 4K; anything else is the engine's to choose."""
    if text is None or text.isdigit():
        return text
    match = COUNT.fullmatch(text)
    return str(int(float(match.group(1)) * UNITS[match.group(2)])) if match else None


def _unless(text: str | None, default: str) -> str | None:
    return None if text == default else text
