"""Any model by name: a directory with config.json, the catalogue, a YAML entry like the catalogue's, or the hub.

GPUs likewise: the catalogue, or a YAML entry of one's own. An entry has the fields of `perf/models.py` or `perf/gpus.py`.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import Gpu, gpu_named, model_named, precision_named
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import Model

FILE_BYTES_MAX = 4 << 20  # the largest published config.json lists modules by name and has less than half of it
POSITIVE = {
    Model: ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "parameters_b", "active_b"),
    Gpu: ("memory_gib", "bandwidth_tbps", "bf16_tflops", "link_gbps"),
}
HUB_TIMEOUT_S = 5
QUANTISED = ("nvfp4", "mxfp4", "fp4", "fp8", "awq", "gptq", "w4a16", "int4", "w8a8", "int8")  # in names of checkpoints

Entry = TypeVar("Entry", Model, Gpu)


def find_model(name: str) -> Model:
    """Raises ConfigError: what is missing in the file, or the nearest known name."""
    if not name:
        raise ConfigError([Problem("--model", "is missing: a name, or `list` for those that are known")])
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _entry(path, Model)
    if path.suffix == ".json":
        return _out_of(_read(path), name)
    if _is_there(path / "config.json"):
        return _out_of(_read(path / "config.json") | _beside(path), name)
    if _is_there(path):
        what = "is a directory without config.json" if path.is_dir() else "is neither a directory, nor .json, nor .yaml"
        raise ConfigError([Problem(name, what)])
    try:
        return model_named(name)
    except KeyError as unknown:
        said = str(unknown.args[0])
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ConfigError([Problem("--model", f"{said}; or name a directory with config.json")]) from None
    return _out_of(_from_hub(name, said), name)


def _out_of(config: dict[str, Any], name: str) -> Model:
    from pilothouse.perf.model_config import model_of  # a model of the catalogue does without

    return model_of(config, name)


def _beside(path: Path) -> dict[str, Any]:
    """What modelopt says of its quantisation in a file of its own."""
    if not _is_there(path / "hf_quant_config.json"):
        return {}
    told = _read(path / "hf_quant_config.json").get("quantization")
    return {"quantization_config": {"quant_method": "modelopt"} | told} if isinstance(told, dict) else {}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


def find_gpu(name: str) -> Gpu:
    """Raises ConfigError: the nearest known name, or what is wrong with the file."""
    if name.endswith((".yaml", ".yml")):
        return _entry(Path(name), Gpu)
    try:
        return gpu_named(name)
    except KeyError as unknown:
        raise ConfigError([Problem("--gpu", f"{unknown.args[0]}; or name a YAML file with its limits")]) from None


def usual_precision(model: Model, name: str) -> Precision:
    """Of the weights, where nobody says: as the name of the checkpoint tells, or as published."""
    words = name.lower().rpartition("/")[2].replace("_", "-").split("-")
    told = next((word for word in QUANTISED if word in words), "")
    return precision_named(told) if told else Precision(model.published)


def usual_ways(model: Model, name: str) -> list[Precision]:
    """That may be chosen, where nobody says: as published, of bf16 also fp8; a checkpoint's own, if its name tells."""
    told = usual_precision(model, name)
    return [told, Precision.FP8] if told is Precision.BF16 else [told]


def _entry(path: Path, kind: type[Entry]) -> Entry:
    from pilothouse.config.convert import convert
    from pilothouse.config.load import read_yaml

    data = read_yaml(_text(path), str(path))
    problems: list[Problem] = []
    entry = convert(kind, {"source": str(path)} | data if isinstance(data, dict) else data, "", problems)
    if entry is not None:
        problems = [Problem(f, "is not above 0") for f in POSITIVE[kind] if not 0 < getattr(entry, f) < float("inf")]
        if not entry.name:
            problems.append(Problem("name", "is empty"))
        if isinstance(entry, Model) and entry.active_b > entry.parameters_b:
            problems.append(Problem("active_b", f"is more than parameters_b: {entry.parameters_b:g}"))
        if isinstance(entry, Model) and entry.published not in [*Precision]:
            problems.append(Problem("published", f"{entry.published!r} is none of {', '.join(Precision)}"))
    if entry is None or problems:
        raise ConfigError([Problem(f"{path}: {problem.where}", problem.what) for problem in problems])
    return entry


def _text(path: Path) -> str:
    try:
        if not path.is_file() and path.exists():
            raise ConfigError([Problem(str(path), "is no file")])
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError([Problem(str(path), f"is larger than {FILE_BYTES_MAX >> 20} MB: not a configuration")])
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError([Problem(str(path), f"cannot be read: {reason}")]) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(str(path), f"is not JSON: {error}")]) from None
    if not isinstance(config, dict):
        raise ConfigError([Problem(str(path), "is not a model's configuration: no fields")])
    return config


def _from_hub(name: str, unknown: str) -> dict[str, Any]:
    try:
        from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        hint = "the hub is asked once `pip install pilothouse[hub]` is done"
        raise ConfigError([Problem("--model", f"{unknown}; {hint}")]) from None
    try:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return _read(Path(cached))
        _reach(hf_hub_url(name, "config.json"))
        return _read(Path(hf_hub_download(name, "config.json", etag_timeout=HUB_TIMEOUT_S)))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError([Problem("--model", f"{unknown}; the hub did not give its config.json: {said}")]) from None


def _reach(url: str) -> None:
    """Raises OSError at once where there is no network: the hub's own client tries for half a minute."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if not getproxies():
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port or 443), HUB_TIMEOUT_S):
            pass
