"""The `policy` setting to a routing profile: a shipped one by name, or one spelled out."""

from difflib import get_close_matches
from typing import Any

import msgspec

from pilothouse.config.convert import convert
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.policy import Policy, Registry, deciders, filters, pickers, queues, scorers
from pilothouse.core.selection import Named, Profile
from pilothouse.policies.profiles import PROFILES

NAME = "custom"
WEIGHT_MAX = 1e6  # far beyond any use; the weighted sum then stays finite
FIELDS = ("name", "like", "filters", "scorers", "picker", "queue", "decider")


def profile(policy: object) -> Profile:
    """Raises ConfigError with every problem; mistakes name the path, e.g. `policy.scorers[0]`."""
    problems: list[Problem] = []
    built = _named(policy, problems) if isinstance(policy, str) else _spelled(policy, problems)
    if built is None or problems:
        raise ConfigError(problems)
    return built


def _named(name: str, problems: list[Problem], where: str = "policy") -> Profile | None:
    if name not in PROFILES:
        near = get_close_matches(name, PROFILES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(PROFILES))}"
        problems.append(Problem(where, f"unknown policy {name!r}, {hint}"))
    return PROFILES.get(name)


def _spelled(data: object, problems: list[Problem]) -> Profile | None:
    if not isinstance(data, dict):
        problems.append(Problem("policy", "must be a name or a mapping with filters, scorers and picker"))
        return None
    unknown = f"unknown field, known: {', '.join(FIELDS)}"
    problems += [Problem(f"policy.{key}", unknown) for key in data if key not in FIELDS]
    chosen = []
    for i, item in enumerate(_list(data, "filters", problems)):
        built = _plugin(filters, item, f"policy.filters[{i}]", problems)
        if built:
            chosen.append(built)
    named = []
    for i, item in enumerate(_list(data, "scorers", problems)):
        where = f"policy.scorers[{i}]"
        weight = item.get("weight", 1.0) if isinstance(item, dict) else 1.0
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= WEIGHT_MAX:
            problems.append(Problem(f"{where}.weight", f"must be a number from 0 to {WEIGHT_MAX:g}"))
            weight = 1.0
        rest = {k: v for k, v in item.items() if k != "weight"} if isinstance(item, dict) else item
        scorer = _plugin(scorers, rest, where, problems)
        if scorer:
            named.append(Named(scorer[0], scorer[1], weight))
    picker = _plugin(pickers, data.get("picker", {"type": "best"}), "policy.picker", problems)
    queue = _plugin(queues, data["queue"], "policy.queue", problems) if data.get("queue") is not None else None
    decider = _plugin(deciders, data["decider"], "policy.decider", problems) if data.get("decider") else None
    if picker is None:
        return None
    name = str(data.get("name", NAME))
    whole = Profile(name, chosen, named, picker[1], queue and queue[1], decider and decider[1])
    return whole if data.get("like") is None else _changed(data, whole, problems)


def _changed(data: dict[str, Any], built: Profile, problems: list[Problem]) -> Profile | None:
    """`like: a shipped policy`, with the parts that are given in place of its own."""
    base = _named(data["like"], problems, "policy.like") if isinstance(data["like"], str) else None
    if base is None:
        if not isinstance(data["like"], str):
            problems.append(Problem("policy.like", "must be the name of a shipped policy"))
        return None
    own = {part: getattr(built, part) for part in ("filters", "scorers", "picker", "queue", "decider") if part in data}
    return msgspec.structs.replace(base, name=data.get("name", base.name), **own)


def _list(data: dict[str, Any], key: str, problems: list[Problem]) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        problems.append(Problem(f"policy.{key}", "must be a list"))
        return []
    return value


def _plugin(registry: Registry[Any], item: object, where: str, problems: list[Problem]) -> tuple[str, Any] | None:
    """`{type: name, parameter: value}` or just the name."""
    item = {"type": item} if isinstance(item, str) else item
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        problems.append(Problem(where, f"must be a {registry.kind}'s name or a mapping with `type`"))
        return None
    try:
        kind: type[Policy] = registry.get(item["type"])
    except KeyError as error:
        problems.append(Problem(where, error.args[0]))
        return None
    built = convert(kind, {k: v for k, v in item.items() if k != "type"}, where, problems)
    return (item["type"], built) if built is not None else None


def manual(registry: Registry[Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(name, manual page, [(parameter, default)]) of each plugin of one kind."""
    pages = []
    for name, kind in registry:
        parameters = [(f.name, "(required)" if f.required else repr(f.default)) for f in msgspec.structs.fields(kind)]
        pages.append((name, kind.__doc__ or "", parameters))
    return pages
