"""A routing profile as it would be written in YAML: the way back of `policy.py`."""

from typing import Any

import msgspec

from pilothouse.config.values import Duration
from pilothouse.core.policy import Policy, Registry, deciders, filters, pickers, queues, scorers
from pilothouse.core.selection import Profile
from pilothouse.core.units import Micros


def spelled(profile: Profile) -> dict[str, Any]:
    """Everything written out, defaults too. `profile(spelled(p))` is `p`, for all that is registered."""
    written: dict[str, Any] = {"name": profile.name}
    if profile.filters:
        written["filters"] = [_plugin(filters, policy) for _, policy in profile.filters]
    written["scorers"] = [_plugin(scorers, named.scorer) | {"weight": named.weight} for named in profile.scorers]
    written["picker"] = _plugin(pickers, profile.picker)
    if profile.queue is not None:
        written["queue"] = _plugin(queues, profile.queue)
    if profile.decider is not None:
        written["decider"] = _plugin(deciders, profile.decider)
    return written


def _plugin(registry: Registry[Any], policy: Policy) -> dict[str, Any]:
    name = next(name for name, kind in registry if kind is type(policy))
    values = {field.name: _plain(field.type, getattr(policy, field.name)) for field in msgspec.structs.fields(policy)}
    return {"type": name} | values


def _plain(kind: Any, value: Any) -> Any:
    return str(Duration(value)) if kind is Micros else msgspec.to_builtins(value)
