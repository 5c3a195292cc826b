"""A policy with a bug: contained in production (least requests decides, counted, said in the receipt), raised in tests."""

from collections.abc import Callable

import pytest

from pilothouse.core.errors import PolicyError
from pilothouse.core.events import Arrived
from pilothouse.core.policy import Filter, Known, Picker, Registry, Scorer
from pilothouse.core.selection import Named, Profile
from pilothouse.policies.pickers import Best
from tests.core.worlds import arrived, given, route

Answer = Callable[[Known], list[float]]


class Odd(Scorer, frozen=True):
    """Scores what it is told to."""

    answer: Answer

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return self.answer(known)


class OddPicker(Picker, frozen=True):
    """Picks what it is told to."""

    index: int

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        return self.index


class OddFilter(Filter, frozen=True):
    """Answers for one endpoint too many."""

    def keep(self, arrived: Arrived, known: Known) -> list[bool]:
        return [True] * (len(known.endpoints) + 1)


def crash(known: Known) -> list[float]:
    raise ZeroDivisionError("somebody divided")


NAN, INF = float("nan"), float("inf")
BUGS: dict[str, Answer] = {
    "raises": crash,
    "too few": lambda known: [0.5],
    "too many": lambda known: [0.5] * 9,
    "none": lambda known: [],
    "above one": lambda known: [0.5, 1.1, 0.5],
    "below zero": lambda known: [0.5, 0.5, -0.1],
    "nan first": lambda known: [NAN, 0.5, 0.5],
    "nan last": lambda known: [0.5, 0.5, NAN],
    "infinite": lambda known: [0.5, INF, 0.5],
    "not a number": lambda known: [None] * 3,  # type: ignore[list-item]
}
FLEET = "a streaming=2 | b streaming=1 | c streaming=3"


def profiles() -> dict[str, Profile]:
    wrong = {name: Profile("odd", [], [Named("odd", Odd(answer))], Best()) for name, answer in BUGS.items()}
    for index in (-1, 3):
        wrong[f"index {index}"] = Profile("odd", [], [], OddPicker(index))
    return wrong | {"filter": Profile("odd", [("odd", OddFilter())], [], Best())}


@pytest.mark.parametrize("bug", profiles())
def test_in_production_least_requests_decides(bug: str) -> None:
    world = given(FLEET, "round_robin", strict=False)
    world.dispatcher.chooser.profile = profiles()[bug]
    world.when(arrived("r", 10)).expect(route("r", "b"))
    assert world.dispatcher.policy_failures == 1
    why = world.last_route().why
    assert why.profile == "least_requests" and why.note.startswith("fallback: ")
    world.ledger(b=(10, 2))


@pytest.mark.parametrize("bug", profiles())
def test_in_tests_it_raises(bug: str) -> None:
    world = given(FLEET, "round_robin")
    world.dispatcher.chooser.profile = profiles()[bug]
    with pytest.raises(PolicyError, match="profile odd: "):
        world.when(arrived("r", 10))


def test_a_registry_knows_its_names_and_refuses_what_is_wrong() -> None:
    registry: Registry[Scorer] = Registry("scorer")
    registry.register("odd")(Odd)
    assert registry.get("odd") is Odd and list(registry) == [("odd", Odd)]
    with pytest.raises(KeyError, match="unknown scorer 'od', did you mean 'odd'"):
        registry.get("od")
    with pytest.raises(KeyError, match="known: odd"):
        registry.get("zzzzz")
    with pytest.raises(AssertionError, match="registered twice"):
        registry.register("odd")(Odd)
    registry.seal()
    with pytest.raises(AssertionError, match="sealed"):
        registry.register("late")(Odd)
