"""What is emulated: from names of the catalogue to an engine's limits, and everything a user may change about it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.tokens.dialect import Algorithm
from pilothouse.perf.catalog import Model, gpu_named, model_named, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import kv_bytes_per_token, kv_tokens
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.engine import EngineSpec

Named = TypeVar("Named")
HASHINGS = ("sha256_cbor", "sha256")  # the others of vLLM are seeded at random


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """As asked for. None = what follows from the rest."""

    model: str
    gpu: str
    tp: int = 1
    precision: str = "bf16"
    served_name: str = ""  # "" = the model as it was named
    tokenizer: Path | None = None
    step_time: Path | None = None  # a file of coefficients; None = the best known
    max_model_len: int = 32_768  # tokens: the native context of the Qwen3 family
    block_size: int = 16  # tokens: vLLM's default on GPUs
    kv_blocks: int | None = None
    utilisation: float = 0.92  # share of GPU memory: vLLM 0.32's default
    batched_tokens_max: int = 8192
    sequences_max: int = 1024
    queued_max: int | None = None  # waiting requests, beyond which 503 is answered; None = no limit
    hashing: str = "sha256_cbor"
    output_tokens: int = 256  # of answers whose length nobody asked for
    transfer_gb_per_s: float = 50.0  # KV from a prefill engine: one 400 Gbit/s network port
    time_scale: float = 1.0  # seconds of the engine in one second of the wall
    loras: tuple[str, ...] = ()  # NAME or NAME=PATH
    kv_events: bool = True
    seed: int = 0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One emulated engine, with all that follows settled."""

    wanted: Wanted
    served: str
    model: Model
    spec: EngineSpec
    kv_bytes: float  # of one token, all GPUs of the engine together
    algorithm: Algorithm
    loras: dict[str, str]  # name -> path
    title: str  # for people: what is emulated


def settle(wanted: Wanted) -> Settings:
    """Raises ConfigError with every problem that can be told apart."""
    problems: list[Problem] = []
    model = _named(model_named, wanted.model, "--model", problems)
    gpu = _named(gpu_named, wanted.gpu, "--gpu", problems)
    precision = _named(precision_named, wanted.precision, "--precision", problems)
    if wanted.hashing not in HASHINGS:
        problems.append(Problem("--hashing", f"unknown: {wanted.hashing!r}; known: {', '.join(HASHINGS)}"))
    for option, value in (("--time-scale", wanted.time_scale), ("--transfer-gb-per-s", wanted.transfer_gb_per_s)):
        if not value > 0:
            problems.append(Problem(option, "must be above zero"))
    if model is not None and model.heads % wanted.tp:
        what = f"{model.name} has {model.heads} attention heads: vLLM splits them evenly, which {wanted.tp} does not"
        problems.append(Problem("--tp", what))
    if wanted.tokenizer is not None and not (wanted.tokenizer / "tokenizer.json").is_file():
        problems.append(Problem("--tokenizer", f"there is no {wanted.tokenizer / 'tokenizer.json'}"))
    if problems or model is None or gpu is None or precision is None:
        raise ConfigError(problems)
    blocks = wanted.kv_blocks
    if blocks is None:
        blocks = kv_tokens(model, gpu, wanted.tp, precision, wanted.utilisation) // wanted.block_size
    if blocks < 4:
        what = f"{model.name} in {precision} leaves no room for KV on {gpu.name} at tp {wanted.tp}"
        raise ConfigError([Problem("--tp", f"{what}: raise it, or choose a smaller precision")])
    times = _step_time(wanted.step_time) if wanted.step_time else step_time(model, gpu, wanted.tp, precision)
    try:
        spec = EngineSpec(
            times,
            blocks,
            wanted.block_size,
            max(wanted.batched_tokens_max, wanted.sequences_max),
            wanted.sequences_max,
            macro_steps=False,  # each token is sent when its step ends
        )
    except ValueError as error:
        raise ConfigError([Problem("--block-size, --max-num-seqs", str(error))]) from None
    room = (blocks - 3) * wanted.block_size  # less the margin that admission keeps
    title = f"{model.name} {precision.value} on {gpu.name} x {wanted.tp}, step time {times.label.lower()}"
    return Settings(
        wanted=msgspec.structs.replace(wanted, max_model_len=min(wanted.max_model_len, room)),
        served=wanted.served_name or wanted.model,
        model=model,
        spec=spec,
        kv_bytes=kv_bytes_per_token(model, wanted.tp) * wanted.tp,
        algorithm=msgspec.convert(wanted.hashing, Algorithm),
        loras=dict(map(lora_named, wanted.loras)),
        title=title,
    )


def lora_named(text: str) -> tuple[str, str]:
    """NAME=PATH; without a path, one that cannot be mistaken for a file."""
    name, _, path = text.partition("=")
    return name, path or f"emulated/{name}"


def _named(find: Callable[[str], Named], name: str, option: str, problems: list[Problem]) -> Named | None:
    try:
        return find(name)
    except KeyError as error:
        problems.append(Problem(option, str(error.args[0])))
        return None


def _step_time(path: Path) -> StepTime:
    try:
        return msgspec.json.decode(path.read_bytes(), type=StepTime)
    except OSError as error:
        raise ConfigError([Problem("--step-time", f"{path} cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise ConfigError([Problem("--step-time", f"{path}: {error}")]) from None
