"""What can be tuned of a policy: every number of its parts, and the weights between its scorers."""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from math import exp, log
from typing import Annotated, Any, get_args, get_origin

import msgspec

from pilothouse.config.policy import profile
from pilothouse.config.spelled import spelled
from pilothouse.config.values import Duration
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.policy import Policy
from pilothouse.core.selection import Profile
from pilothouse.core.units import Micros

SPREAD = 8.0  # a range reaches from an eighth of the default to eight times it, as far as the policy allows
LINEAR_SPAN = 4.0  # a range whose ends differ by less is searched in equal steps, a wider one in equal factors
HALVINGS = 30  # to find where a policy stops allowing a value
DIGITS = 3  # of a number found: more would claim what no search can know

Point = tuple[float, ...]  # of a space: each parameter between 0, its lowest value, and 1, its highest


class Parameter(msgspec.Struct, frozen=True):
    """One number of a policy."""

    path: str  # as in the policy's YAML, e.g. scorers[0].stall_share
    default: float
    low: float
    high: float
    whole: bool = False
    duration: bool = False  # whole microseconds

    @property
    def in_factors(self) -> bool:
        return self.low > 0 and self.high > LINEAR_SPAN * self.low

    def value(self, share: float) -> float:
        """Rounded to what is worth writing down, within the range."""
        if self.in_factors:
            raw = exp(log(self.low) + share * (log(self.high) - log(self.low)))
        else:
            raw = self.low + share * (self.high - self.low)
        value = min(self.high, max(self.low, float(f"{raw:.{DIGITS}g}")))
        return round(value) if self.whole else value

    def share(self, value: float) -> float:
        if self.high <= self.low:
            return 0.0
        value = min(self.high, max(self.low, value))
        if self.in_factors:
            return (log(value) - log(self.low)) / (log(self.high) - log(self.low))
        return (value - self.low) / (self.high - self.low)

    def shown(self, value: float) -> str:
        if self.duration:
            return str(Duration(round(value)))
        return str(round(value)) if self.whole else f"{value:.6g}"


class Space(msgspec.Struct, frozen=True):
    """A policy and the parameters that are searched."""

    base: Profile
    parameters: list[Parameter]
    left_out: list[str] = []  # why others are not

    @property
    def start(self) -> Point:
        """The policy as it is."""
        return tuple(parameter.share(parameter.default) for parameter in self.parameters)

    def values(self, point: Point) -> dict[str, float]:
        """Path -> value. A coordinate of the start is the default to the last digit."""
        return {
            p.path: p.default if share == p.share(p.default) else p.value(share)
            for p, share in zip(self.parameters, point, strict=True)
        }

    def policy(self, point: Point) -> Profile | None:
        """None where the values do not go together."""
        return _with(self.base, self.parameters, self.values(point))


def space(base: Profile, wanted: Sequence[str] = ()) -> Space:
    """All numbers of a policy, or those wanted: PATH, or PATH=LOW:HIGH. Raises ConfigError."""
    found, left_out = _numbers(base)
    if not wanted:
        parameters = [parameter for parameter in found if parameter.high > parameter.low]
        if not parameters:
            what = f"policy {base.name!r} has no number to tune{'; ' + '; '.join(left_out) if left_out else ''}"
            raise ConfigError([Problem("policy", what)])
        return Space(base, parameters, left_out)
    problems: list[Problem] = []
    chosen: dict[str, Parameter] = {}
    for text in wanted:
        path, _, ends = text.partition("=")
        matching = [p for p in found if p.path == path or p.path.rpartition(".")[2] == path]
        if len(matching) == 1:
            parameter = _ranged(base, matching[0], ends, problems) if ends else matching[0]
            if parameter.high <= parameter.low and not problems:
                problems.append(Problem(f"--parameter {path}", "has no range of its own: give one, PATH=LOW:HIGH"))
            chosen[parameter.path] = parameter
        elif matching:
            several = ", ".join(p.path for p in matching)
            problems.append(Problem(f"--parameter {path}", f"is the name of several: {several}"))
        else:
            known = ", ".join(p.path for p in found) or "none"
            problems.append(Problem(f"--parameter {path}", f"policy {base.name!r} has no such number; it has: {known}"))
    if problems:
        raise ConfigError(problems)
    return Space(base, list(chosen.values()))


def _numbers(base: Profile) -> tuple[list[Parameter], list[str]]:
    """Those without a range of their own have none: low = high."""
    parts: list[tuple[str, Policy]] = [(f"filters[{i}]", policy) for i, (_, policy) in enumerate(base.filters)]
    parts += [(f"scorers[{i}]", named.scorer) for i, named in enumerate(base.scorers)]
    parts += [("picker", base.picker)] + ([("queue", base.queue)] if base.queue is not None else [])
    found, left_out = [], []
    for where, policy in parts:
        for field in msgspec.structs.fields(policy):
            kind = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
            if kind in (int, float, Micros):
                value = getattr(policy, field.name)
                plain = Parameter(f"{where}.{field.name}", value, value, value, kind is not float, kind is Micros)
                found.append(_derived(base, plain))
                if not value:
                    left_out.append(f"{where}.{field.name} is 0: give its range with --parameter PATH=LOW:HIGH")
    if len(base.scorers) > 1:  # only their ratios count, so the first one's stays
        for i, named in enumerate(base.scorers[1:], 1):
            found.append(_derived(base, Parameter(f"scorers[{i}].weight", named.weight, named.weight, named.weight)))
    return found, left_out


def _derived(base: Profile, plain: Parameter) -> Parameter:
    if plain.default <= 0:
        return plain

    def allowed(value: float) -> bool:
        return _with(base, [plain], {plain.path: plain.default if value == plain.default else value}) is not None

    low, high = (_reach(plain, factor, allowed) for factor in (1 / SPREAD, SPREAD))
    return msgspec.structs.replace(plain, low=low, high=high)


def _reach(plain: Parameter, factor: float, allowed: Callable[[float], bool]) -> float:
    """The farthest value towards `default x factor` that the policy allows."""

    def at(share: float) -> float:
        value: float = plain.default * factor**share
        return max(1, round(value)) if plain.whole else value

    near, far = 0.0, 1.0
    if allowed(at(far)):
        return at(far)
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        near, far = (middle, far) if allowed(at(middle)) else (near, middle)
    rounded = float(f"{at(near):.{DIGITS}g}")  # 1 rather than 0.999999
    return rounded if allowed(rounded) else at(near)


def _ranged(base: Profile, parameter: Parameter, ends: str, problems: list[Problem]) -> Parameter:
    where = f"--parameter {parameter.path}"
    try:
        low, high = (_number(parameter, part) for part in ends.split(":"))
    except ValueError:
        problems.append(Problem(where, f"{ends!r} is not LOW:HIGH, e.g. {_example(parameter)}"))
        return parameter
    if not low < high:
        problems.append(Problem(where, "the lower end must be below the upper one"))
    for value in (low, high):
        if _with(base, [parameter], {parameter.path: value}) is None:
            problems.append(Problem(where, f"the policy does not allow {parameter.shown(value)}"))
    return msgspec.structs.replace(parameter, low=low, high=high)


def _number(parameter: Parameter, text: str) -> float:
    if parameter.duration:
        return float(Duration.parse(text))
    return float(int(text)) if parameter.whole else float(text)


def _example(parameter: Parameter) -> str:
    return "500ms:4s" if parameter.duration else "1:64" if parameter.whole else "0.1:0.9"


def _with(base: Profile, parameters: Sequence[Parameter], values: Mapping[str, float]) -> Profile | None:
    """The policy with other numbers, by way of its YAML, so that whatever comes out can be written down."""
    written = deepcopy(spelled(base))
    for parameter in parameters:
        _put(written, parameter, values[parameter.path])
    try:
        return profile(written)
    except ConfigError:
        return None


def _put(written: dict[str, Any], parameter: Parameter, value: float) -> None:
    part: Any = written
    *way, last = re.findall(r"\w+", parameter.path)  # scorers[0].weight -> scorers, 0, weight
    for name in way:
        part = part[int(name)] if isinstance(part, list) else part[name]
    if parameter.duration:
        part[last] = str(Duration(round(value)))
    else:
        part[last] = round(value) if parameter.whole else value
