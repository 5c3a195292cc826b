"""Finds the files that say how a model turns requests into tokens: in a folder, or in the local hub cache."""

import importlib
import json
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core.errors import ConfigError, Problem

NAMES = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "special_tokens_map.json")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Families whose chats vLLM builds with a renderer of its own instead of the template, by model type or architecture.
_RENDERED_IN_CODE = {
    "gpt_oss", "DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "DeepseekV4ForConditionalGeneration",
    "DeepseekV41ForCausalLM", "KimiK3ForConditionalGeneration", "MoonshotKimiaForCausalLM", "InklingForCausalLM",
    "InklingForConditionalGeneration",
}  # fmt: skip


class ModelFiles(msgspec.Struct, frozen=True):
    """What was read. `templates` has the key "default" unless the model ships only named ones, or none."""

    tokenizer: Path
    config: dict[str, Any]  # tokenizer_config.json
    model: dict[str, Any]  # config.json
    generation: dict[str, Any]  # generation_config.json
    templates: dict[str, str]

    @property
    def own_rendering(self) -> str:
        """Why the engine would not use this tokenizer.json and template; "" where it does."""
        if any(path.name == "tekken.json" or path.name.startswith("tokenizer.model.v") for path in self._neighbours):
            return "engine uses the Mistral tokenizer"
        family = {self.model.get("model_type"), *(self.model.get("architectures") or ())}
        return "engine renders this model family in code" if family & _RENDERED_IN_CODE else ""

    @property
    def _neighbours(self) -> list[Path]:
        return sorted(self.tokenizer.parent.iterdir())

    @property
    def special_tokens(self) -> dict[str, str]:
        """The names a template may use, such as `bos_token`, with their text."""
        found = {name: self.config[name] for name in _NAMED_TOKENS if self.config.get(name) is not None}
        for name, value in self.config.items():
            if name.endswith("_token") and name not in found and isinstance(value, str | dict):
                found[name] = value
        extra = self.config.get("extra_special_tokens")
        if isinstance(extra, dict):
            found.update(extra)
        return {name: value["content"] if isinstance(value, dict) else value for name, value in found.items()}


def find_model_files(model: str | Path) -> ModelFiles:
    """Reads a folder, or the offline cache for a hub name. Raises ConfigError with what is missing and what to do."""
    folder = Path(model).expanduser()
    if folder.is_file() and folder.name == "tokenizer.json":
        folder = folder.parent
    if not folder.is_dir():
        folder = _cached_folder(str(model))
    if not (folder / "tokenizer.json").is_file():
        raise _missing(
            f"{folder} has no tokenizer.json: point to a folder that has one, or save one there with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    config = _json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # older models keep the named tokens in a file of their own
        config = {**config, **_json(folder / "special_tokens_map.json")}
    return ModelFiles(
        folder / "tokenizer.json",
        config,
        _json(folder / "config.json"),
        _json(folder / "generation_config.json"),
        _templates(folder, config),
    )


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Files win over the configuration, as in the engine; chat_template.json is the oldest place."""
    found = {path.stem: path.read_text("utf-8") for path in sorted((folder / "chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        found["default"] = (folder / "chat_template.jinja").read_text("utf-8")
    if found:
        return found
    declared = config.get("chat_template") or _json(folder / "chat_template.json").get("chat_template")
    if isinstance(declared, str):
        return {"default": declared}
    if isinstance(declared, list):
        return {entry["name"]: entry["template"] for entry in declared}
    return dict(declared) if isinstance(declared, dict) else {}


def _cached_folder(name: str) -> Path:
    """The folder of a hub model in the local cache; nothing is downloaded."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise _missing(
            f"{name} is not a folder; to use a hub name install the extra 'hub', "
            "or give the folder that holds tokenizer.json"
        ) from None
    found = hub.try_to_load_from_cache(name, "tokenizer.json") if name.count("/") == 1 else None
    if not isinstance(found, str):
        raise _missing(
            f"{name} is neither a folder nor in the local hub cache: download its tokenizer files first "
            "(`hf download` with this name), or give the folder that holds tokenizer.json"
        )
    return Path(found).parent


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise _missing(f"{path} is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _missing(what: str) -> ConfigError:
    return ConfigError([Problem("tokenizer", what)])
