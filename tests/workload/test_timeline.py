"""A stage over time: nothing is lost and nothing is counted twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.timeline import timeline


@st.composite
def outcomes(draw: st.DrawFn, start_us: int = 1_000_000) -> list[Outcome]:
    made = []
    for i in range(draw(st.integers(0, 30))):
        sent, wait, rest = (
            start_us + draw(st.integers(0, 10**7)),
            draw(st.integers(0, 10**6)),
            draw(st.integers(0, 10**7)),
        )
        refused = draw(st.booleans())
        first, end = Micros(sent + wait), Micros(sent + wait + rest)
        tokens = 0 if refused else 9
        made.append(Outcome(RequestId(f"{i}"), Micros(sent), first, end, 100, 50, 10, tokens, EndpointId("e"), refused))
    return made


@given(outcomes(), st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_all_are_sent_and_all_tokens_come(made: list[Outcome], moments: int) -> None:
    slices = timeline(made, Micros(SECOND), moments)
    assert sum(moment.sent for moment in slices) == len(made) and len(slices) <= moments
    if not made:
        return
    lasts_us = max(outcome.end_us for outcome in made) - SECOND
    length_us = max(1, -(-lasts_us // moments))
    assert (len(slices) - 1) * length_us < max(1, lasts_us) <= len(slices) * length_us
    length_s = length_us / SECOND
    tokens = sum(moment.output_per_second * length_s for moment in slices)
    assert abs(tokens - sum(outcome.counted_tokens for outcome in made)) < 1e-6 * (1 + tokens)
    assert [moment.at_s for moment in slices] == [i * length_us / SECOND for i in range(len(slices))]


def test_requests_count_when_they_were_sent_and_tokens_when_the_answer_ended() -> None:
    early = Outcome(RequestId("a"), Micros(0), Micros(100), Micros(1000), 100, 50, 10, 9, EndpointId("e"))
    late = Outcome(RequestId("b"), Micros(600), Micros(700), Micros(1000), 100, 0, 10, 9, EndpointId("e"))
    first, second = timeline([early, late], Micros(0), 2)
    assert (first.sent, second.sent) == (1, 1)
    assert (first.output_per_second, second.output_per_second) == (0, 18 / 0.0005)
    assert (first.hit_ratio, second.hit_ratio) == (0.5, 0)
    assert first.ttft.mean == second.ttft.mean == 100 / SECOND
