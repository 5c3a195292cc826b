"""A running fleet's last week, as Prometheus has it, as a workload: how its rate went, how long requests are, what caches found.

Of vLLM's engines: rates, histograms of lengths, prefix-cache hits. Where there are none, of our gateway: rates and means.
What no metric tells is assumed, and said: requests come as Poisson does, lengths of a prompt and of its answer are drawn
apart, and what caches found is one beginning that all prompts share, so caches of any size find as much.
"""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from itertools import pairwise
from math import isfinite
from typing import Any

from msgspec import Struct

from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.plan.asks import busy_rate
from pilothouse.plan.described import VALUES, spelled, stage_of
from pilothouse.plan.described import parsed as length_of
from pilothouse.workload.lengths import Length, Listed
from pilothouse.workload.written import PARTS_MAX

PREFIX = "prometheus:"
WINDOW, STEP = "7d", "1h"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
TIMEOUT_S = 30  # of one query
BYTES_MAX = 16 << 20  # of one answer
REQUESTS_MIN = 50  # fewer say nothing of lengths


class Names(Struct, frozen=True):
    """Of one exporter's series."""

    who: str
    model: str  # label
    requests: str  # counter
    hits: tuple[str, str]  # counters of tokens: found, looked for
    prompt: str  # histogram, or counter of tokens
    output: str
    histograms: bool


ENGINES = Names(
    "vLLM engines", "model_name", "vllm:request_success_total",
    ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
    "vllm:request_prompt_tokens", "vllm:request_generation_tokens", True,
)  # fmt: skip
GATEWAY = Names(
    "a Pilothouse gateway", "model", "pilothouse_requests_total",
    ("pilothouse_cached_tokens_total", "pilothouse_prompt_tokens_total"),
    "pilothouse_prompt_tokens_total", "pilothouse_output_tokens_total", False,
)  # fmt: skip
KINDS = (ENGINES, GATEWAY)


class Wanted(Struct, frozen=True):
    """What to ask for."""

    url: str  # of Prometheus, without /api/v1
    served: str = ""  # the model; "" = the only one there is
    window: str = WINDOW
    step: str = STEP


def is_prometheus(said: object) -> bool:
    return isinstance(said, str) and said.startswith(PREFIX)


def address(said: str) -> str:
    """Of `prometheus:http://host:9090`; paths of the file system have lost a slash by then."""
    url = re.sub(r"^(https?):/+", r"\1://", said.removeprefix(PREFIX)).rstrip("/")
    if not re.match(r"https?://[^/]", url):
        raise ConfigError([Problem("--workload", f"{said!r} has no address, such as {PREFIX}http://127.0.0.1:9090")])
    return url


def read(wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """(a workload as in a file, what it rests on). Raises ConfigError and PilothouseError."""
    window_s, step_s = _seconds("--window", wanted.window), _seconds("--step", wanted.step)
    if not step_s < window_s <= step_s * PARTS_MAX:
        what = f"must be shorter than the window, {wanted.window}, and not below a {PARTS_MAX:,}th of it"
        raise ConfigError([Problem("--step", what)])
    server = _Server(wanted.url, window_s)
    names, model = _model(server, wanted)
    told = _Told(server, names, model)
    rates = told.rates(step_s)
    busy = busy_rate([(rate, step_s, round(rate * step_s)) for rate in rates])
    prompt, output = told.length(names.prompt), told.length(names.output)
    hits = told.hit_ratio()
    made: dict[str, Any] = {
        "kind": "open_loop",
        "stages": [stage_of(_round(busy))],
        "day": [_round(r / busy) for r in rates],
    }
    made |= {"prompt_tokens": spelled(prompt), "output_tokens": spelled(output)}
    made |= {"shared_ratio": _round(hits)} if hits else {}
    known = len(rates) * step_s / window_s
    asked = f"{wanted.window} by {wanted.step}"
    notes = [
        f"Measured by {names.who}: {told.requests:,.0f} requests of {model} in {asked}"
        + (f", of which {known:.0%} are recorded" if known < 0.95 else ""),
        "assumed: arrivals as Poisson's within a step, lengths of prompts and answers independent"
        + ("" if names.histograms else "; of lengths only means are known, p99 is taken for 4 of them"),
        f"assumed: the {hits:.1%} of prompt tokens that caches found are one beginning common to all, of any cache alike"
        if hits
        else "caches found nothing, or nobody counted it: prompts share nothing",
    ]
    return made, notes


class _Server:
    """One Prometheus, asked over one window that ends now."""

    def __init__(self, url: str, window_s: int) -> None:
        self.url, self.window_s = url, window_s
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def now(self, query: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series that has one: NaN is none."""
        rows = [(row["metric"], float(row["value"][1])) for row in self._ask("query", {"query": query}, "vector")]
        return [(labels, value) for labels, value in rows if isfinite(value)]

    def over(self, query: str, step_s: int) -> list[float]:
        """Of one series, at each step within the window at which there is something."""
        end = float(self._ask("query", {"query": "time()"}, "scalar")[1])
        words = {
            "query": query,
            "start": f"{end - self.window_s + step_s:.3f}",
            "end": f"{end:.3f}",
            "step": str(step_s),
        }
        rows = self._ask("query_range", words, "matrix")
        values = [float(value) for _, value in rows[0]["values"]] if rows else []
        return [value if isfinite(value) else 0.0 for value in values]  # NaN: nothing was there to tell a rate of

    def _ask(self, path: str, words: Mapping[str, str], kind: str) -> Any:
        asked = f"{self.url}/api/v1/{path}"
        try:
            with self._open(asked, urllib.parse.urlencode(words).encode(), timeout=TIMEOUT_S) as response:
                text = response.read(BYTES_MAX + 1)
        except urllib.error.HTTPError as error:
            raise PilothouseError(f"{asked}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise PilothouseError(f"no Prometheus answers at {self.url}: {why}") from None
        if len(text) > BYTES_MAX:
            raise PilothouseError(f"{asked}: the answer is longer than {BYTES_MAX >> 20} MiB; ask for a shorter window")
        try:
            answer = json.loads(text)
            assert answer["status"] == "success" and answer["data"]["resultType"] == kind
            return answer["data"]["result"]
        except (ValueError, KeyError, TypeError, AssertionError):
            raise PilothouseError(f"{asked} does not answer as Prometheus does; is the address right?") from None


class _Told(Struct, frozen=True):
    """What one exporter tells of one model."""

    server: _Server
    names: Names
    model: str

    @property
    def requests(self) -> float:
        return self._increase(self.names.requests)

    def rates(self, step_s: int) -> list[float]:
        """Requests per second."""
        found = self.server.over(f"sum(rate({self._series(self.names.requests)}[{step_s}s]))", step_s)
        if not any(found):
            what = f"no rate can be told at steps of {step_s} s: a step must hold two scrapes, and the window some requests"
            raise PilothouseError(f"{self.server.url}: {self.model}: {what}")
        return found

    def length(self, name: str) -> Length:
        if not self.names.histograms:
            return length_of(f"mean={max(1.0, self._increase(name) / self.requests):.6f}")[0]
        mean = self._increase(f"{name}_sum") / max(1.0, self._increase(f"{name}_count"))
        query = f"sum by (le) (increase({self._series(name + '_bucket')}[{self.server.window_s}s]))"
        counts = {float(labels["le"]): value for labels, value in self.server.now(query)}
        if len(counts) < 2 or mean < 1:
            raise PilothouseError(f"{self.server.url}: there is no {name}_bucket of {self.model} within the window")
        return Listed(of_histogram(counts, mean))

    def hit_ratio(self) -> float:
        found, asked = (self._increase(name) for name in self.names.hits)
        return min(0.99, found / asked) if asked else 0.0

    def _increase(self, name: str) -> float:
        found = self.server.now(f"sum(increase({self._series(name)}[{self.server.window_s}s]))")
        return found[0][1] if found else 0.0

    def _series(self, name: str) -> str:
        finished = ',outcome="finished"' if name == GATEWAY.requests else ""
        return f"{name}{{{self.names.model}={json.dumps(self.model)}{finished}}}"


def of_histogram(counts: Mapping[float, float], mean: float) -> list[int]:
    """Equally likely lengths. Within a bucket logarithms are even; all are scaled to the mean.

    counts   requests up to each edge, as Prometheus counts; the last edge is infinite
    """
    edges = sorted(counts)
    total, values, place = counts[edges[-1]], list[float](), 0
    bounds = [*edges[:-1], edges[-2] if len(edges) > 1 else mean]  # what is beyond the last edge is taken for it
    below = list(pairwise([0.0, *(counts[edge] for edge in edges)]))
    for i in range(VALUES):
        at = (i + 0.5) / VALUES * total
        while place < len(edges) - 1 and below[place][1] < at:
            place += 1
        low, high = (bounds[place - 1] if place else 1.0), bounds[place]
        inside = (at - below[place][0]) / max(below[place][1] - below[place][0], 1e-9)
        values.append(low * (high / low) ** min(1.0, max(0.0, inside)))
    scale = mean * VALUES / sum(values)
    return [max(1, round(value * scale)) for value in values]


def _model(server: _Server, wanted: Wanted) -> tuple[Names, str]:
    """Whose series there are, and of which model."""
    for names in KINDS:
        counted = server.now(f"sum by ({names.model}) (increase({names.requests}[{server.window_s}s]))")
        found = {labels[names.model]: count for labels, count in counted if labels.get(names.model) and count > 0}
        if not found:
            continue
        there = ", ".join(f"{name} ({count:,.0f} requests)" for name, count in found.items())
        if wanted.served and wanted.served not in found:
            raise ConfigError([Problem("--served-name", f"nobody asked for {wanted.served!r}, but for: {there}")])
        if not wanted.served and len(found) > 1:
            raise ConfigError([Problem("--served-name", f"is missing: which of {there}?")])
        model = wanted.served or next(iter(found))
        if found[model] < REQUESTS_MIN:
            what = f"only {found[model]:.0f} requests of {model} in {wanted.window}: too few to tell lengths"
            raise PilothouseError(f"{server.url}: {what}")
        return names, model
    looked = " and ".join(names.requests for names in KINDS)
    raise PilothouseError(f"{server.url}: no requests within {wanted.window}: looked for {looked}")


def _seconds(where: str, text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text.strip())
    if not found or not int(found[1]):
        raise ConfigError([Problem(where, f"{text!r} is not a time such as 15m, 24h or 7d")])
    return int(found[1]) * UNITS[found[2]]


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(BYTES_MAX))["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP {error.code} {error.reason}"


def _round(value: float) -> float:
    return float(f"{value:.4g}")
