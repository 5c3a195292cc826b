"""From conversations to stages: they begin by the clock, or each user begins the next one when the last has ended."""

from collections.abc import Callable

from pilothouse.core.random_stream import stream
from pilothouse.core.units import Micros, RequestId, Seconds
from pilothouse.workload.arrivals import AnyArrivals, arrival_times, how_many
from pilothouse.workload.lengths import Pause, draw_us
from pilothouse.workload.requests import Planned, Stage
from pilothouse.workload.texts import Turn, text
from pilothouse.workload.written import REQUESTS_MAX, Written


class Phase(Written, frozen=True):
    """One stage: `rate` for `duration`, or `count` in all by `users` at a time. What is counted is a conversation; for
    kinds without conversations that is a request."""

    rate: float = 0.0  # per second
    seconds: Seconds = Seconds(0.0)
    users: int = 0
    count: int = 0
    ramp_us: Micros = Micros(0)  # users begin evenly over this time
    reported: bool = True
    pause_us: Micros = Micros(0)  # between this stage's last answer and the next stage

    def __post_init__(self) -> None:
        by_clock, by_users = (self.rate != 0 or self.seconds != 0.0), (self.users != 0 or self.count != 0)
        if by_clock == by_users:
            raise ValueError("give rate and duration, or users and count")
        if by_clock and (self.rate <= 0 or self.seconds <= 0):
            raise ValueError("rate and duration must be above 0")
        if max(self.rate * self.seconds, self.count) > REQUESTS_MAX:
            raise ValueError(f"a stage must not have more than {REQUESTS_MAX}")
        if by_users and not 1 <= self.users <= self.count:
            raise ValueError("users must be at least 1 and at most count")


Session = Callable[[int], list[Turn]]  # the number of a conversation -> its turns, each behind the one it follows


def stages(
    phases: list[Phase], arrivals: AnyArrivals, seed: int, load: float, session: Session, between: Pause = Micros(0)
) -> list[Stage]:
    """`load` multiplies rates. With users it multiplies their number (rounded, at least one) and the count with it, so
    that each has as much to do as before. `between`: a user's pause before the next conversation."""
    made, number = [], 0
    for index, phase in enumerate(phases):
        if phase.users:
            stage = _by_users(index, phase, seed, load, session, number, between)
        else:
            stage = _by_clock(index, phase, seed, load, session, number, arrivals)
        made.append(stage)
        number += stage_sessions(phase, load)
    return made


def stage_sessions(phase: Phase, load: float) -> int:
    """How many conversations a stage has."""
    if phase.users:
        return max(1, round(phase.count * _users(phase, load) / phase.users))
    return how_many(phase.rate * load, phase.seconds)


def _users(phase: Phase, load: float) -> int:
    return max(1, round(phase.users * load))


def _by_clock(
    index: int, phase: Phase, seed: int, load: float, session: Session, number: int, arrivals: AnyArrivals
) -> Stage:
    rate = phase.rate * load
    requests: list[Planned] = []
    for i, at_us in enumerate(arrival_times(arrivals, stream(seed, f"arrivals/{index}"), rate, phase.seconds)):
        requests += _planned(f"{index}-{number + i}", session(number + i), at_us, None, text(f"{seed}/{number + i}"))
    offered = len(requests) / phase.seconds
    name = f"{offered:.3g} requests/s" if phase.reported else "warm-up"
    return Stage(name, offered, phase.seconds, requests, phase.pause_us, phase.reported)


def _by_users(index: int, phase: Phase, seed: int, load: float, session: Session, number: int, between: Pause) -> Stage:
    """Conversation n is had by user n modulo their number. A pause before a user's next one is drawn per conversation."""
    users, requests = _users(phase, load), list[Planned]()
    last: list[RequestId | None] = [None] * users
    for i in range(stage_sessions(phase, load)):
        user, after = i % users, last[i % users]
        at_us = phase.ramp_us * user // users
        if after is not None:
            at_us = draw_us(between, stream(seed, f"between/{number + i}"))
        turns = session(number + i)
        requests += _planned(f"{index}-{number + i}", turns, at_us, after, text(f"{seed}/{number + i}"))
        last[user] = requests[-1].request
    name = f"{users} users" if phase.reported else "warm-up"
    return Stage(name, 0.0, 0.0, requests, phase.pause_us, phase.reported)


def _planned(name: str, turns: list[Turn], at_us: int, after: RequestId | None, key: int) -> list[Planned]:
    made: list[Planned] = []
    for i, turn in enumerate(turns):
        starts = turn.follows < 0
        made.append(
            Planned(
                RequestId(f"{name}-{i}"),
                Micros(at_us + turn.pause_us if starts else turn.pause_us),
                turn.blocks,
                turn.prompt_tokens,
                turn.output_tokens,
                turn.output_tokens,
                key if len(turns) > 1 else 0,
                turn.output_blocks,
                after if starts else made[turn.follows].request,
            )
        )
    return made
