"""Each field of a configuration: its value, unit, default, where the value came from, and what it means."""

from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from pilothouse.config.schema import Config
from pilothouse.config.values import Duration, Size


class Explained(msgspec.Struct, frozen=True):
    """One line of the explanation."""

    where: str
    value: str
    unit: str
    default: str
    origin: str  # "file" or "default"
    meaning: str


def explain(config: Config, given: object) -> list[Explained]:
    """All fields of `config`; `given` is the data it was loaded from, which tells what was written there."""
    return list(_struct(config, given, ""))


def _struct(value: msgspec.Struct, given: object, where: str) -> list[Explained]:
    lines = []
    for field in fields(value):
        inner = getattr(value, field.name)
        written = given.get(field.name) if isinstance(given, dict) else None
        path = f"{where}.{field.name}" if where else field.name
        if isinstance(inner, msgspec.Struct):
            lines += _struct(inner, written, path)
        elif isinstance(inner, list) and inner and isinstance(inner[0], msgspec.Struct):
            parts = written if isinstance(written, list) else [None] * len(inner)
            for i, (item, part) in enumerate(zip(inner, parts, strict=True)):
                lines += _struct(item, part, f"{path}[{i}]")
        else:
            origin = "file" if isinstance(given, dict) and field.name in given else "default"
            lines.append(Explained(path, _shown(inner), _unit(field), _default(field), origin, _meaning(field.type)))
    return lines


def _shown(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "-"
    if isinstance(value, (list, dict)):
        return msgspec.json.encode(value).decode()
    return str(value)


def _unit(field: FieldInfo) -> str:
    bare = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
    if bare in (Duration, Size):
        return "duration" if bare is Duration else "bytes"
    return {int: "count", float: "ratio" if "ratio" in field.name else "number"}.get(bare, "")


def _default(field: FieldInfo) -> str:
    if field.required:
        return "(required)"
    return _shown(field.default if field.default is not msgspec.NODEFAULT else field.default_factory())


def _meaning(kind: Any) -> str:
    for part in get_args(kind) if get_origin(kind) is Annotated else ():
        if isinstance(part, msgspec.Meta) and part.description:
            return part.description
    return ""
