"""Plain data to a frozen struct, strictly, collecting every problem with its path instead of stopping at the first.

A field of type `Micros` or `Seconds` is written as a duration. Of several structs, the tag (`kind: chat`) chooses one.
"""

from difflib import get_close_matches
from math import isfinite
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import fields

from pilothouse.config.values import NUMBER_MAX, Duration, Size
from pilothouse.core.errors import Problem
from pilothouse.core.units import Micros, Seconds

T = TypeVar("T", bound=msgspec.Struct)


def convert(kind: type[T], data: object, where: str, problems: list[Problem]) -> T | None:
    """`data` as the struct `kind`; None if anything is wrong, with the reasons added to `problems`."""
    if not isinstance(data, dict):
        problems.append(Problem(where or "top level", f"must be a mapping, not {_said(data)}"))
        return None
    known = {field.encode_name: field for field in fields(kind)}
    before = len(problems)
    for name in data:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            problems.append(Problem(_join(where, name), f"unknown field, {hint}"))
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in data:
            values[field.name] = _value(field.type, data[name], _join(where, name), problems)
        elif field.required:
            problems.append(Problem(_join(where, name), "is required"))
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:  # a rule in __post_init__
        problems.append(Problem(where, str(error)))
        return None


def _value(kind: Any, data: object, where: str, problems: list[Problem]) -> Any:
    inner = _strip(kind)
    if get_origin(inner) in (Union, UnionType):
        return _one_of([part for part in get_args(inner) if part is not type(None)], kind, data, where, problems)
    if _is_struct(inner):
        return convert(inner, data, where, problems)
    if get_origin(inner) is list and isinstance(data, list):
        values = [_value(get_args(inner)[0], item, f"{where}[{i}]", problems) for i, item in enumerate(data)]
        return values if data or kind is inner else _leaf(kind, inner, values, where, problems)
    if get_origin(inner) is dict and _is_struct(get_args(inner)[1]):
        if not isinstance(data, dict):
            problems.append(Problem(where, f"must be a mapping, not {_said(data)}"))
            return None
        return {str(key): convert(get_args(inner)[1], item, _join(where, key), problems) for key, item in data.items()}
    return _leaf(kind, inner, data, where, problems)


def _one_of(parts: list[Any], kind: Any, data: object, where: str, problems: list[Problem]) -> Any:
    """A union: of structs a mapping, of plain types anything else; None where it is allowed."""
    if data is None and type(None) in get_args(_strip(kind)):
        return None
    structs = [part for part in parts if _is_struct(part)]
    plain = [part for part in parts if not _is_struct(part)]
    if structs and (isinstance(data, dict) or not plain):
        return convert_tagged(structs, data, where, problems)
    if len(plain) == 1:  # limits of the union are its own
        limits = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
        return _value(Annotated[(plain[0], *limits)] if limits else plain[0], data, where, problems)
    if isinstance(data, str) and Micros in plain:
        return _value(Micros, data, where, problems)
    return _leaf(Union[tuple(part for part in plain if part is not Micros)], None, data, where, problems)  # noqa: UP007


def convert_tagged(kinds: list[Any], data: object, where: str, problems: list[Problem]) -> Any:
    """`data` as one of several structs, chosen by its tag; the only one there is needs none."""
    if len(kinds) == 1 or not isinstance(data, dict):
        return convert(kinds[0], data, where, problems)
    name = kinds[0].__struct_config__.tag_field
    tags = {kind.__struct_config__.tag: kind for kind in kinds}
    tag, place = data.get(name), _join(where, name)
    if tag is None:
        problems.append(Problem(place, f"is required, one of: {', '.join(tags)}"))
    elif not isinstance(tag, str) or tag not in tags:
        near = get_close_matches(str(tag), tags, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(tags)}"
        problems.append(Problem(place, f"unknown {name} {tag!r}, {hint}"))
    else:
        return convert(tags[tag], {key: value for key, value in data.items() if key != name}, where, problems)
    return None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _leaf(kind: Any, inner: Any, data: object, where: str, problems: list[Problem]) -> Any:
    try:
        if inner in (Duration, Size):
            return inner.parse(data)
        if inner is Micros:
            return Duration.parse(data).us
        if inner is Seconds:
            return Duration.parse(data).seconds
        value = msgspec.convert(data, kind)
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, float) and not isfinite(each):
                raise ValueError(f"{each} is not a finite number")
        if isinstance(value, int) and abs(value) > NUMBER_MAX:
            raise ValueError(f"{value} is too large")
        return value
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        problems.append(Problem(where, str(error)))
        return None


def _strip(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _said(data: object) -> str:
    return "nothing" if data is None else type(data).__name__
