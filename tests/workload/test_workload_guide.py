"""Workloads keep the published habits; metrics are what the trade says they are."""

import pytest

from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.workload import open_loop
from pilothouse.workload.open_loop import Arrivals, OpenLoop
from pilothouse.workload.outcomes import Objectives, Outcome, percentile, summarise
from pilothouse.workload.shared_prefix import Load, SharedPrefix, generate


def test_the_guide_is_as_published() -> None:
    workload = generate(SharedPrefix(), 1)
    assert len(workload.stages) == 17 and [s.reported for s in workload.stages].count(False) == 1
    assert [len(stage.requests) for stage in workload.stages[:5]] == [750, 60, 200, 300, 760]
    request = workload.stages[1].requests[0]
    assert (request.prompt_tokens, len(request.blocks), request.output_tokens) == (7200, 450, 1000)
    assert request.counted_tokens == 942


def test_data_begin_again_in_every_stage_and_groups_share_their_beginning() -> None:
    workload = generate(SharedPrefix(loads=[Load(40, 20), Load(10, 3)]), 1)
    first, second = workload.stages
    assert [r.blocks for r in second.requests] == [r.blocks for r in first.requests[:30]]
    assert first.requests[750].blocks is first.requests[0].blocks
    prompts = {tuple(r.blocks) for r in first.requests}
    assert len(prompts) == 750 and len({p[:375] for p in prompts}) == 150 and len({p[:376] for p in prompts}) == 750


def test_arrivals_are_poisson_counts_that_fill_each_second() -> None:
    stage = generate(SharedPrefix(loads=[Load(20, 38)]), 1).stages[0]
    at = [r.arrival_us for r in stage.requests]
    assert len(at) == 760 and at == sorted(at) and 30 * SECOND < at[-1] < 46 * SECOND
    counts = [sum(second * SECOND < us <= (second + 1) * SECOND for us in at) for second in range(30)]
    assert len(set(counts)) > 5


def test_a_seed_fixes_everything_and_another_changes_it() -> None:
    small = SharedPrefix(loads=[Load(5, 4)], groups=4)
    assert generate(small, 1) == generate(small, 1) != generate(small, 2)


def test_an_open_loop_can_be_even() -> None:
    workload = open_loop.generate(OpenLoop(4, 2, Arrivals.UNIFORM, prefixes=2, prefix_tokens=64), 1)
    assert [r.arrival_us for r in workload.stages[0].requests] == [i * 250_000 for i in range(8)]
    assert len({r.blocks[3] for r in workload.stages[0].requests}) == 2


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"prompt_tokens": (5, 2)}, {"output_tokens": (0, 2)}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        OpenLoop(**{"rate": 1.0, "seconds": 1.0} | wrong)  # type: ignore[arg-type]


def outcome(name: str, sent: float, first: float, end: float, tokens: int = 11, refused: bool = False) -> Outcome:
    times = [Micros(round(at * SECOND)) for at in (sent, first, end)]
    return Outcome(RequestId(name), *times, 100, 50, tokens, tokens - 1, EndpointId("e"), refused)


def test_metrics_by_hand() -> None:
    served = [outcome("a", 0, 1, 2), outcome("b", 1, 1.5, 4.5), outcome("c", 2, 2, 2, refused=True)]
    asked = Objectives(ttft_us=Micros(700_000))
    s = summarise(served, Micros(0), 2.0, "Simulated", asked)
    assert (s.requests, s.refused, s.seconds, s.offered_rate) == (3, 1, 4.5, 2.0)
    assert s.output_per_second == pytest.approx(20 / 4.5) and s.goodput == pytest.approx(1 / 4.5)
    assert (s.ttft.mean, s.tpot.mean, s.e2e.mean) == pytest.approx((0.75, 0.2, 2.75))
    assert s.ntpot.mean == pytest.approx((2 / 11 + 3.5 / 11) / 2) and s.hit_ratio == 0.5


def test_percentiles_lie_between_neighbours() -> None:
    assert [percentile([0.0, 1.0, 2.0, 3.0], share) for share in (0, 0.5, 0.9, 1)] == [0, 1.5, pytest.approx(2.7), 3]


def test_nothing_served_is_no_division_by_zero() -> None:
    assert summarise([], Micros(0), 1.0, "Simulated", Objectives()).ttft.mean == 0
