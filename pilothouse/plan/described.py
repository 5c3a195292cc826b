"""A workload described in a few words instead of a file: lengths, how many requests, what their prompts share.

Lengths are written as
800                       all alike
200-1400                  anything between
mean=800,p99=3000         a mean and a percentile, or percentiles alone: p50=600,p90=1800,p99=3000; `max=` limits them
800:3000:16000            the same as mean=800,p99=3000,max=16000
Between and beyond percentiles logarithms of lengths go as those of a lognormal distribution do.
"""

import re
from bisect import bisect_right
from math import ceil, exp, log, sqrt
from statistics import NormalDist
from typing import Any

import msgspec

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import RATE_MAX
from pilothouse.workload.lengths import Length, Listed, Lognormal
from pilothouse.workload.written import TOKENS_MAX

TAIL_GUESS = 4.0  # a 99th percentile in means, where only the mean is said: near those of public chat traces
BEYOND = 3.0  # 99th percentiles: the longest, where nobody says how long
VALUES = 100  # equally likely ones that stand for a distribution by percentiles
REQUESTS_MIN, REQUESTS_MAX = 5_000, 30_000  # that are made up
SECONDS = 120.0  # of them, within those limits
LIVES = 12  # requests of each user, likewise
FORM = "is not of the form 800, 200-1400, mean=800,p99=3000 or p50=600,p99=3000"


def workload_of(
    prompts: str, outputs: str, rate: float | None, users: int | None, shared: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """(a workload as in a file, what was assumed). Raises ConfigError.

    rate, users   requests per second, or so many under way at all times
    shared        of prompts: tokens beside their own, or a share of them (`40%`)
    """
    given = [(name, text) for name, text in (("--prompt-tokens", prompts), ("--output-tokens", outputs)) if text]
    missing = {"--prompt-tokens", "--output-tokens"} - {name for name, _ in given}
    problems = [Problem(name, "is missing: lengths of both are needed") for name in sorted(missing)]
    if (rate is None) == (users is None):
        problems.append(Problem("--rate", "give either it or --concurrency"))
    if rate is not None and not 0 < rate <= RATE_MAX:
        problems.append(Problem("--rate", f"must be above 0 and at most {RATE_MAX:,} requests/s"))
    lengths, notes = list[Length](), list[str]()
    for name, text in given:
        try:
            length, assumed = parsed(text)
            lengths.append(length)
            notes += [f"{name.removeprefix('--').removesuffix('-tokens')}s: {words}" for words in assumed]
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    sharing = _sharing(shared, problems)
    if problems:
        raise ConfigError(problems)
    made = {"kind": "open_loop", "stages": [_stage(rate, users)], "day": [1.0]}
    made |= {"prompt_tokens": spelled(lengths[0]), "output_tokens": spelled(lengths[1])} | sharing
    return made, [*notes, *([] if shared else ["no prompt shares its beginning with another"])]


def parsed(text: str) -> tuple[Length, list[str]]:
    """(lengths, what was assumed). Raises ValueError."""
    plain = text.replace(" ", "").replace("_", "")
    if re.fullmatch("[0-9]+", plain):
        return _within(int(plain)), []
    if found := re.fullmatch("([0-9]+)-([0-9]+)", plain):
        low, high = sorted(_within(int(part)) for part in found.groups())
        return (low, high), []
    if found := re.fullmatch("([0-9]+):([0-9]+):([0-9]+)", plain):
        plain = "mean={},p99={},max={}".format(*found.groups())
    values: dict[str, float] = {}
    for part in plain.split(","):
        if not (found := re.fullmatch(r"(mean|max|p[1-9][0-9]?(?:\.[0-9]+)?)=([0-9]+(?:\.[0-9]+)?)", part)):
            raise ValueError(f"{text!r} {FORM}")
        values[found[1]] = _within(float(found[2]))
    mean, most = values.pop("mean", None), values.pop("max", None)
    points = sorted((float(name[1:]) / 100, value) for name, value in values.items())
    if mean is not None and len(points) <= 1:
        return _by_mean(mean, points, most)
    if mean is not None or not points:
        raise ValueError(f"{text!r}: give a mean and at most one percentile, or percentiles alone")
    if [value for _, value in points] != sorted(value for _, value in points):
        raise ValueError(f"{text!r}: higher percentiles must not be shorter")
    if len(points) == 1:
        raise ValueError(f"{text!r}: one percentile does not say how lengths vary; give the mean or another")
    return Listed(by_percentiles(points, most)), []


def by_percentiles(points: list[tuple[float, float]], most: float | None) -> list[int]:
    """Equally likely values; points are (share, length), ascending, at least two."""
    z, logs = [NormalDist().inv_cdf(share) for share, _ in points], [log(length) for _, length in points]
    limit = points[-1][1] * BEYOND if most is None else most
    values = []
    for i in range(VALUES):
        at = NormalDist().inv_cdf((i + 0.5) / VALUES)
        low = min(max(bisect_right(z, at) - 1, 0), len(z) - 2)
        slope = (logs[low + 1] - logs[low]) / (z[low + 1] - z[low])
        values.append(max(1, round(min(limit, exp(logs[low] + slope * (at - z[low]))))))
    return values


def spelled(length: Length) -> Any:
    """As a workload file has it."""
    plain = msgspec.to_builtins(length)
    return {name: value for name, value in plain.items() if value is not None} if isinstance(plain, dict) else plain


def stage_of(rate: float) -> dict[str, Any]:
    """One of as many requests as tell something of percentiles."""
    requests = min(REQUESTS_MAX, max(REQUESTS_MIN, rate * SECONDS))
    return {"rate": rate, "duration": f"{ceil(requests / rate)}s"}


def _stage(rate: float | None, users: int | None) -> dict[str, Any]:
    if rate is not None:
        return stage_of(rate)
    assert users is not None
    return {"users": users, "count": max(users, min(REQUESTS_MAX, max(REQUESTS_MIN, LIVES * users)))}


def _by_mean(mean: float, points: list[tuple[float, float]], most: float | None) -> tuple[Length, list[str]]:
    notes = [] if points else [f"p99 is taken for {TAIL_GUESS:g} means; give p99= with the mean if you know it"]
    share, value = points[0] if points else (0.99, TAIL_GUESS * mean)
    z, ratio = NormalDist().inv_cdf(share), value / mean
    if z <= 0 or not 1 <= ratio <= exp(z * z / 2):
        raise ValueError(
            f"p{share * 100:g} must be 1 to {exp(z * z / 2):.3g} times the mean" if z > 0 else "is not above the median"
        )
    sigma = z - sqrt(z * z - 2 * log(ratio))
    high = mean * exp(NormalDist().inv_cdf(0.99) * sigma - sigma * sigma / 2)
    longest = round(max(mean, BEYOND * high)) + 1 if most is None else round(most)
    return Lognormal(mean=mean, most=longest, sigma=round(sigma, 6)), notes


def _sharing(text: str, problems: list[Problem]) -> dict[str, Any]:
    plain = text.strip()
    if not plain:
        return {}
    if found := re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]+)?)%", plain):
        return {"shared_ratio": round(float(found[1]) / 100, 6)}
    if re.fullmatch("[0-9]+", plain) and 0 < int(plain) <= TOKENS_MAX:
        return {"prefixes": 1, "prefix_tokens": int(plain)}
    problems.append(
        Problem("--shared-prefix", f"{text!r} is neither tokens, such as 1500, nor a share below 100%, such as 40%")
    )
    return {}


def _within(value: Any) -> Any:
    if not 1 <= value <= TOKENS_MAX:
        raise ValueError(f"{value:g} tokens: must be at least 1 and at most {TOKENS_MAX}")
    return value
