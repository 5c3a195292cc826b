"""Pickers: one endpoint out of the scored ones."""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Picker, pickers

TIE = 1e-9  # totals this close are equal


@pickers.register("best")
class Best(Picker, frozen=True):
    """The highest total; equal ones take turns, so that an idle fleet is used evenly."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        bar = max(totals) - TIE
        tied = [i for i, total in enumerate(totals) if total >= bar]
        return tied[known.turn % len(tied)]


@pickers.register("round_robin")
class RoundRobin(Picker, frozen=True):
    """Each endpoint in turn, whatever the scores."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        return known.turn % len(totals)


@pickers.register("random")
class Random(Picker, frozen=True):
    """Any endpoint, all equally likely, from the request's own random stream."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        return known.luck(arrived).randrange(len(totals))


@pickers.register("weighted_random")
class WeightedRandom(Picker, frozen=True):
    """An endpoint with probability proportional to its total; all zero means all equally likely."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        luck = known.luck(arrived)
        if sum(totals) <= 0:
            return luck.randrange(len(totals))
        return luck.choices(range(len(totals)), totals)[0]


@pickers.register("power_of_two")
class PowerOfTwo(Picker, frozen=True):
    """The better of two endpoints drawn at random (Mitzenmacher, IEEE TPDS 12(10), 2001)."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        if len(totals) == 1:
            return 0
        first, second = known.luck(arrived).sample(range(len(totals)), 2)
        return first if totals[first] >= totals[second] else second
