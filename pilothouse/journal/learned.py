"""Step times out of a journal: what the dispatcher's own learning measured of each answer, fitted once over all of them.

Live, old answers fade out, so that the fit follows the engines. Here all answers of the day count alike, and every second
one is kept back once, to say how well a fit predicts what it has not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import msgspec

from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import EndpointSeen, Finished
from pilothouse.core.fleet import FIRST_STEPS
from pilothouse.core.speed import TYPICAL, Speed
from pilothouse.journal.log import Header, Segment, read, segments
from pilothouse.perf.step_time import StepTime

MEASURED_MIN = 16  # of one pool: fewer do not tell its scale, and every second one is kept back
MEASURED_MAX = 20_000  # of one pool; more would not change the fit
SEGMENTS_MAX = 8  # of a journal, spread over it: each can be replayed by itself
DRAWN = 5.0  # pull towards the typical ratios, in measurements: as the live fit's, 0.05 of a hundred remembered
SWEEPS, ROUNDS = 300, 4  # of coordinate descent; of counting less what is far off
FAR_OFF = 0.5  # relative error from which on a measurement counts less: requests of others, a lost packet
REQUEST_US = 2_000.0  # a request beside its steps, before anything is known: HTTP and scheduling on a quiet machine
PS_PER_US = 1_000_000
LABEL = "Estimated (learned from the journal)"

Theta = tuple[float, ...]  # a, b, c, p, q as in `core/speed.py`, and a request beside its steps [microseconds]


class Measured(msgspec.Struct, frozen=True):
    """One answer's time to its first token, or per token after that."""

    features: tuple[float, ...]  # as in `core/speed.py`, and 1 for a first token, 0 for others
    took_us: float
    first: bool


@dataclass(slots=True)
class Remembering(Speed):
    """Learns as any other, and keeps what it learned from."""

    kept: list[Measured] = field(default_factory=list)

    def learn(self, features: tuple[float, ...], took_us: float) -> float:
        self.kept.append(_measured(features, took_us))
        return Speed.learn(self, features, took_us)


class Learned(msgspec.Struct, frozen=True):
    """One pool's step times, and how far off a fit is for answers that it had not seen."""

    pool: str
    step_time: StepTime
    answers: int  # measurements
    first_error: float | None  # median relative error of the time to the first token
    decode_error: float | None  # the same of the time per token after it


def learn(path: Path, make: Callable[[Header, bytes], Dispatcher]) -> list[Learned]:
    """Replays a journal, or parts from all over it, for its measurements. Pools with too few are missing."""
    kept: dict[str, list[Measured]] = {}
    paths = segments(path)
    chosen = (
        [paths[i * len(paths) // SEGMENTS_MAX] for i in range(SEGMENTS_MAX)] if len(paths) > SEGMENTS_MAX else paths
    )
    for segment_path in chosen:
        segment = read(segment_path)
        if segment is not None:
            for pool, speed in _learn_segment(segment, make, MEASURED_MAX // len(chosen)).items():
                kept.setdefault(pool, []).extend(speed.kept)
    return [learned(pool, found) for pool, found in kept.items() if len(found) >= MEASURED_MIN]


def _learn_segment(
    segment: Segment, make: Callable[[Header, bytes], Dispatcher], measured_max: int
) -> dict[str, Remembering]:
    dispatcher = make(segment.header, segment.snapshot)
    speeds: dict[str, Remembering] = {}
    dispatcher.fleet.learning = True  # whatever the recorded policy made of it
    for endpoint in dispatcher.fleet.endpoints.values():
        speeds[endpoint.seen.pool] = _remembering(dispatcher.fleet.speeds.get(endpoint.seen.pool))
    dispatcher.fleet.speeds.update(speeds)
    try:
        for entry in segment.entries:
            if isinstance(entry.event, EndpointSeen) and entry.event.pool not in speeds:
                dispatcher.fleet.speeds[entry.event.pool] = speeds[entry.event.pool] = Remembering()
            dispatcher.handle(entry.event)
            if isinstance(entry.event, Finished) and all(len(speed.kept) >= measured_max for speed in speeds.values()):
                break
    except (KeyError, AssertionError):  # another version decided otherwise: what was learned until then counts
        pass
    return speeds


def learned(pool: str, found: Sequence[Measured]) -> Learned:
    """The fit over everything, and the errors of one that saw only every second measurement."""
    half, unseen = fit(found[::2]), found[1::2]
    whole = a, b, c, p, q, request_us = fit(found)
    first, decode = ([abs(relative(half, m)) for m in unseen if m.first is kind] for kind in (True, False))
    times = StepTime(
        a, b, c * 1000, p, q * PS_PER_US,
        rho=1.0,  # the ledger counts context that several share once: that is what c was fitted to
        label=LABEL,
        source=f"{len(found)} measurements of pool {pool}",
        error=fmean(abs(relative(whole, m)) for m in found),
        error_left_out=fmean([*first, *decode]),
        request_us=request_us,
    )  # fmt: skip
    return Learned(pool, times, len(found), median(first) if first else None, median(decode) if decode else None)


def fit(found: Sequence[Measured]) -> Theta:
    """Non-negative least squares of the relative error, drawn towards a typical engine where answers do not tell the
    coefficients apart. What is far off counts less: Huber's weights."""
    guess = (*TYPICAL, REQUEST_US)
    scale, count = median(m.took_us / _dot(guess, m.features) for m in found), len(guess)
    typical = tuple(scale * value for value in guess)
    # How far off a guess may well be: as much as it is; a request beside its steps, as much as a first token takes.
    widths = (*typical[:-1], median([m.took_us for m in found if m.first] or [typical[-1]]))
    theta = list(typical)
    for _ in range(ROUNDS):
        rows = []
        for m in found:
            trust = min(1.0, FAR_OFF / max(1e-9, abs(relative(theta, m))))
            rows.append((trust, [x / m.took_us for x in m.features]))
        gram = [[sum(w * row[i] * row[j] for w, row in rows) for j in range(count)] for i in range(count)]
        moment = [sum(w * row[i] for w, row in rows) for i in range(count)]
        for _ in range(SWEEPS):
            for i in range(count):
                pull = DRAWN / widths[i] ** 2
                others = sum(gram[i][j] * theta[j] for j in range(count) if j != i)
                theta[i] = max(0.0, (moment[i] - others + pull * typical[i]) / (gram[i][i] + pull))
    return tuple(theta)


def relative(theta: Sequence[float], measured: Measured) -> float:
    """How far the fit is off, as a share of what was measured."""
    return _dot(theta, measured.features) / measured.took_us - 1.0


def _measured(features: tuple[float, ...], took_us: float) -> Measured:
    """A first token also waits for half of the step under way: but not where nobody is being answered."""
    first = features[0] == FIRST_STEPS
    if first and not features[1]:
        features = (1.0, 1.0, *features[2:])
    return Measured((*features, float(first)), took_us, first)


def _dot(theta: Sequence[float], features: Sequence[float]) -> float:
    return sum(t * x for t, x in zip(theta, features, strict=True))


def _remembering(known: Speed | None) -> Remembering:
    """Goes on from what a snapshot knew."""
    return Remembering() if known is None else Remembering(known.theta, known.gram, known.moment, known.answers)
