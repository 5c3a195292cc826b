"""Which names an emulated engine answers to: its model, and adapters that come and go."""

from typing import Any

from pilothouse.emulate.errors import Refused, invalid, unknown_model


class Loras:
    """The adapters of one engine, numbered from 1 in order of loading."""

    def __init__(self, served: str, adapters: dict[str, str]) -> None:
        self.served = served
        self._paths: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._next = 1
        for name, path in adapters.items():
            self._add(name, path)

    def __bool__(self) -> bool:
        return bool(self._paths)

    def items(self) -> list[tuple[str, str]]:
        return list(self._paths.items())

    def find(self, model: str) -> tuple[str, str] | None:
        """(name, path) of the adapter, None for the model itself. Raises Refused for a name nobody has."""
        if model in ("", self.served):
            return None
        if model in self._paths:
            return model, self._paths[model]
        raise unknown_model(model, self.served)

    def number(self, name: str) -> int:
        return self._numbers.get(name, 0)

    def load(self, body: dict[str, Any]) -> bytes:
        """Answers `/v1/load_lora_adapter`. Raises Refused."""
        name, path = _field(body, "lora_name"), _field(body, "lora_path")
        if not name or not path:
            raise Refused("Both 'lora_name' and 'lora_path' must be provided.", kind="InvalidUserInput")
        if name in self._paths and not body.get("load_inplace"):
            what = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set"
            raise Refused(f"{what} 'load_inplace' to True.", kind="InvalidUserInput")
        self._add(name, path)
        return f"Success: LoRA adapter '{name}' added successfully.".encode()

    def unload(self, body: dict[str, Any]) -> bytes:
        """Answers `/v1/unload_lora_adapter`. Raises Refused."""
        name = _field(body, "lora_name")
        if name not in self._paths:
            raise Refused(f"The lora adapter '{name}' cannot be found.", 404)
        del self._paths[name]
        return f"Success: LoRA adapter '{name}' removed successfully.".encode()

    def _add(self, name: str, path: str) -> None:
        self._paths[name], self._numbers[name] = path, self._next
        self._next += 1


def _field(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        raise invalid("missing", f"body.{name}", "Field required")
    if not isinstance(value, str):
        raise invalid("string_type", f"body.{name}", "Input should be a valid string")
    return value
