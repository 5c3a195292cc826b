"""What a plan can be made from beside files: lengths in words, a day's shape, a fleet that Prometheus knows."""

import json
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, PilothouseError
from pilothouse.plan import prometheus
from pilothouse.plan.asks import Closed, asks_of, by_clock, closed_of, settled
from pilothouse.plan.described import VALUES, parsed, workload_of
from pilothouse.plan.document import Objective
from pilothouse.plan.prometheus import Wanted, of_histogram
from pilothouse.plan.promise import expected_of
from pilothouse.plan.rehearsal import confirmed, job, rehearse
from pilothouse.plan.search import search
from pilothouse.workload.lengths import Length, Listed, Lognormal, sigma_of
from pilothouse.workload.outcomes import percentile
from pilothouse.workload.profile import describe
from pilothouse.workload.requests import Workload
from tests.plan.control import control_address
from tests.plan.prometheus import Series
from tests.plan.prometheus import prometheus as server
from tests.plan.test_plan_classes import ASKS, QUESTION


def made(data: dict[str, object]) -> Workload:
    return read_workload(data, Path()).make(1)


# --- lengths in words


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("800", 800),
        ("1_400-200", (200, 1400)),
        ("800:3000:16000", Lognormal(mean=800, most=16000, sigma=0.662502)),
        ("mean=800, p99=3000, max=16000", Lognormal(mean=800, most=16000, sigma=0.662502)),
    ],
)
def test_lengths_are_read(text: str, length: Length) -> None:
    assert parsed(text) == (length, [])


@given(st.integers(20, 5000), st.floats(1.1, 6), st.sampled_from([90, 95, 99]))
def test_a_percentile_beside_a_mean_is_met(mean: int, ratio: float, share: int) -> None:
    z = {90: 1.2816, 95: 1.6449, 99: 2.3263}[share]
    if ratio > 2.718 ** (z * z / 2) * 0.99:
        return
    length, _ = parsed(f"mean={mean},p{share}={mean * ratio:.3f}")
    assert isinstance(length, Lognormal) and length.mean == mean
    reached = mean * 2.718281828 ** (z * sigma_of(length) - sigma_of(length) ** 2 / 2)
    assert reached == pytest.approx(mean * ratio, rel=1e-3)


@given(st.lists(st.integers(1, 50_000), min_size=2, max_size=5).map(sorted))
def test_percentiles_are_met(lengths: list[int]) -> None:
    shares = [10, 50, 90, 95, 99][: len(lengths)]
    found, _ = parsed(",".join(f"p{share}={length}" for share, length in zip(shares, lengths, strict=True)))
    assert isinstance(found, Listed) and found.values == sorted(found.values) and len(found.values) == VALUES
    for share, length in zip(shares, lengths, strict=True):
        below = percentile(found.values, max(0.0, share / 100 - 0.02))
        assert below * 0.95 - 1 <= length <= percentile(found.values, min(1.0, share / 100 + 0.02)) * 1.05 + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("long", "is not of the form"),
        ("0", "at least 1"),
        ("p50=600", "one percentile does not say"),
        ("mean=800,p99=30000", "1 to 15 times the mean"),
        ("mean=800,p50=700,p99=900", "a mean and at most one percentile"),
        ("p50=900,p99=800", "must not be shorter"),
        ("mean=800,max=100", "must rise"),
    ],
)
def test_wrong_lengths_are_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(text)


def test_a_described_workload_is_what_was_described() -> None:
    data, notes = workload_of("mean=800,p99=3000", "200", 30.0, None, "40%")
    work = made(data)
    profile, asks = describe(work), asks_of(work)
    assert notes == [] and profile.prompt.mean == pytest.approx(800, rel=0.03)
    assert asks.rate == asks.rate_mean == pytest.approx(30, rel=0.05) and len(asks.curve) == 1
    assert profile.shared_ratio == pytest.approx(0.4, abs=0.02) and work.stages[0].requests[0].output_tokens == 200


def test_what_is_assumed_is_said_and_what_is_missing_is_named() -> None:
    data, notes = workload_of("mean=800", "200", None, 8)
    assert data["stages"] == [{"users": 8, "count": 5000}]
    assert notes == [
        "prompts: p99 is taken for 4 means; give p99= with the mean if you know it",
        "no prompt shares its beginning with another",
    ]
    with pytest.raises(ConfigError) as caught:
        workload_of("", "x", 3.0, 4, "150%")
    assert [problem.where for problem in caught.value.problems] == [
        "--prompt-tokens", "--rate", "--output-tokens", "--shared-prefix",
    ]  # fmt: skip


# --- a day


def flat(**more: object) -> dict[str, object]:
    return {"kind": "open_loop", "rate": 10, "duration": "100s", **more}


def test_stages_are_busy_times_and_the_day_is_paid_for() -> None:
    asks = asks_of(made(flat(day=[0.1, 1.0, 0.5, 0.4])))
    assert asks.rate == pytest.approx(10, rel=0.05) and asks.rate_mean == pytest.approx(asks.rate / 2)
    assert [share for _, share in asks.curve] == [0.25] * 4
    assert [rate for rate, _ in asks.curve] == sorted(rate for rate, _ in asks.curve)
    assert asks_of(by_clock(made(flat(day=[0.5])), lambda _: 1.0)).rate_mean == pytest.approx(asks.rate / 2)


def test_tenants_with_days_of_their_own_share_capacity() -> None:
    tenants = [
        {"name": "day", "workload": flat(day=[1, 0.0])},
        {"name": "night", "workload": flat(day=[0.0, 1])},
        {"name": "always", "workload": flat()},
    ]
    assert made({"kind": "mix", "tenants": tenants}).day == pytest.approx([2 / 3, 2 / 3])
    tenants[0]["workload"] = flat(day=[1, 1, 1])
    with pytest.raises(ConfigError, match="the same number"):
        made({"kind": "mix", "tenants": tenants})


@pytest.mark.parametrize("day", [[-1], [1e9], ["a"], 3])
def test_a_wrong_day_is_named(day: object) -> None:
    with pytest.raises(ConfigError, match="day"):
        made(flat(day=day))


# --- users who wait for their answers

USERS = {"kind": "open_loop", "prompt_tokens": [100, 900], "output_tokens": [50, 350]}


def loop(users: int, count: int = 600) -> Workload:
    return made(USERS | {"stages": [{"users": users, "count": count}]})


@given(st.integers(1, 400), st.floats(0, 30), st.floats(0.1, 20), st.floats(0.001, 1))
def test_as_many_are_under_way_as_there_are_users(users: int, think: float, least: float, slower: float) -> None:
    asks = replace(ASKS, closed=Closed(users, think))

    def takes(rate: float) -> float:
        return least + slower * rate

    rate = settled(asks, takes).rate
    assert rate * (think + takes(rate)) == pytest.approx(users, rel=1e-2)
    assert settled(ASKS, takes) is ASKS


def test_a_closed_loop_is_known_by_its_users() -> None:
    assert closed_of(loop(7), lambda _: 1.0) == Closed(7, 0)
    assert closed_of(made(flat()), lambda _: 1.0) is None
    mixed = {"kind": "mix", "tenants": [{"name": "a", "workload": flat()}, {"name": "b", "workload": flat()}]}
    mixed["tenants"][1]["workload"] = USERS | {"stages": [{"users": 3, "count": 9}]}  # type: ignore[index]
    assert closed_of(made(mixed), lambda _: 1.0) is None
    batch = {"kind": "batch", "requests": 5}
    assert closed_of(made(batch), lambda _: 1.0) is None


def test_users_with_several_requests_at_a_time_count_as_those_who_are_busy() -> None:
    work = loop(1, 400)
    stage = work.stages[0]
    follows = [0, 0, 0, *(i - 2 - (i % 2 == 0) for i in range(3, 400))]  # two at a time: one goes on, one does not
    names = [planned.request for planned in stage.requests]
    pairs = [
        replace(p, after=names[at]) if i else p for i, (p, at) in enumerate(zip(stage.requests, follows, strict=True))
    ]
    found = closed_of(replace(work, stages=[replace(stage, requests=pairs)]), lambda _: 1e6)
    assert found is not None and found.users == pytest.approx(2, rel=0.02)


def test_sums_of_a_closed_loop_are_those_of_its_simulation() -> None:
    work = loop(40, 1200)
    question = replace(
        QUESTION, asks=asks_of(by_clock(work, lambda p: 1e4 * p.output_tokens), closed=closed_of(work, lambda _: 1.0)),
        classes={}, objective=Objective(ttft_s=0.5, tpot_s=0.05), split=False,
        stocks=[replace(QUESTION.stocks[0], count=2)],
    )  # fmt: skip
    plan = search(question).plans[0]
    sums, task = expected_of(plan), job(plan, question.hardware, question.asks, work)
    done = rehearse(task)
    assert sums.requests_per_s * (sums.output_per_s / sums.requests_per_s * sums.tpot_s) == pytest.approx(40, rel=0.15)
    assert done.requests_per_s == pytest.approx(sums.requests_per_s, rel=0.1)
    assert done.tpot_s == pytest.approx(sums.tpot_s, rel=0.15)
    found = expected_of(confirmed(plan, done))
    assert found.requests_per_s == done.requests_per_s and found.utilisation <= 1
    assert job(plan, question.hardware, question.asks, work, load=0.5).closed is False


# --- Prometheus

MODEL = "vllm:request_success_total"
EDGES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]


def histogram(lengths: list[int]) -> Series:
    below = [({"le": f"{edge}.0"}, float(sum(length <= edge for length in lengths))) for edge in EDGES]
    return [*below, ({"le": "+Inf"}, float(len(lengths)))]


PROMPTS, OUTPUTS = [100] * 300 + [900] * 100, [50] * 400
FLEET: dict[str, Series] = {
    "request_prompt_tokens_bucket": histogram(PROMPTS),
    "request_prompt_tokens_sum": [({}, float(sum(PROMPTS)))],
    "request_prompt_tokens_count": [({}, 400.0)],
    "request_generation_tokens_bucket": histogram(OUTPUTS),
    "request_generation_tokens_sum": [({}, float(sum(OUTPUTS)))],
    "request_generation_tokens_count": [({}, 400.0)],
    "prefix_cache_hits": [({}, 36_000.0)],
    "prefix_cache_queries": [({}, 120_000.0)],
    MODEL: [({"model_name": "chat"}, 400.0)],
}


def test_a_fleet_becomes_a_workload() -> None:
    with server(FLEET, [1.0, 4.0, 8.0, 8.0, 8.0]) as (url, asked):
        data, notes = prometheus.read(Wanted(url, window="5h"))
    work = made(data)
    asks, profile = asks_of(work), describe(work)
    assert asks.rate == pytest.approx(8, rel=0.05) and asks.rate_mean / asks.rate == pytest.approx(29 / 40)
    assert profile.prompt.mean == pytest.approx(300, rel=0.05) and profile.output.mean == pytest.approx(50, rel=0.05)
    assert profile.prompt.p99 > 700 and profile.shared_ratio == pytest.approx(0.3, abs=0.03)
    assert any('model_name="chat"' in query for query in asked)
    assert (
        "Measured by vLLM engines: 400 requests of chat" in notes[0] and sum("assumed" in note for note in notes) == 2
    )


def test_what_prometheus_has_no_number_for_counts_as_nothing() -> None:
    nan = float("nan")
    unknown = FLEET | {"prefix_cache_queries": [({}, nan)]}
    with server(unknown, [8.0, nan, 8.0]) as (url, _):
        data, notes = prometheus.read(Wanted(url, window="3h"))
    assert data["day"] == [1.0, 0.0, 1.0] and "shared_ratio" not in data and "caches found nothing" in notes[2]
    lost = {"request_prompt_tokens_bucket": [(labels, nan) for labels, _ in histogram(PROMPTS)]}
    with server(lost | FLEET | lost, [8.0]) as (url, _), pytest.raises(PilothouseError, match="there is no vllm:"):
        prometheus.read(Wanted(url))


def test_a_gateway_alone_tells_means() -> None:
    found: dict[str, Series] = {
        "pilothouse_requests": [({"model": "m"}, 100.0)],
        "pilothouse_prompt": [({}, 50_000.0)],
        "pilothouse_output": [({}, 9_000.0)],
        "pilothouse_cached": [({}, 5_000.0)],
    }
    with server(found, [2.0] * 4) as (url, asked):
        data, notes = prometheus.read(Wanted(url))
    assert describe(made(data)).prompt.mean == pytest.approx(500, rel=0.05) and data["shared_ratio"] == 0.1
    assert "only means are known" in notes[1] and any('outcome="finished"' in query for query in asked)


@pytest.mark.parametrize(
    ("values", "rates", "wanted", "said"),
    [
        ({}, [], {}, "looked for vllm:request_success_total and pilothouse_requests_total"),
        ({MODEL: [({"model_name": "a"}, 90.0), ({"model_name": "b"}, 70.0)]}, [1], {}, "which of a .90 requests., b"),
        ({MODEL: [({"model_name": "a"}, 90.0)]}, [1], {"served": "c"}, "nobody asked for 'c', but for: a"),
        ({MODEL: [({"model_name": "a"}, 9.0)]}, [1], {}, "only 9 requests of a"),
        ({MODEL: [({"model_name": "a"}, 90.0)]}, [], {}, "a step must hold two scrapes"),
        ({MODEL: [({"model_name": "a"}, 90.0)]}, [1], {}, "there is no vllm:request_prompt_tokens_bucket of a"),
        ({}, [], {"window": "soon"}, "'soon' is not a time"),
        ({}, [], {"step": "8d"}, "must be shorter than the window"),
    ],
)
def test_what_prometheus_lacks_is_said(
    values: dict[str, Series], rates: list[float], wanted: dict[str, str], said: str
) -> None:
    with server(values, rates) as (url, _), pytest.raises(PilothouseError, match=said):
        prometheus.read(Wanted(url, **wanted))


def test_what_is_no_prometheus_is_said() -> None:
    with pytest.raises(PilothouseError, match=r"no Prometheus answers at http://127\.0\.0\.1:9"):
        prometheus.read(Wanted("http://127.0.0.1:9"))
    said, other = (
        "does not answer as Prometheus does",
        {"/api/v1/query": json.dumps({"status": "success", "data": None})},
    )
    with control_address(other, "") as address, pytest.raises(PilothouseError, match=said):
        prometheus.read(Wanted(f"http://{address}"))
    with pytest.raises(ConfigError, match="has no address"):
        prometheus.address("prometheus:localhost:9090")
    assert prometheus.address("prometheus:http:/a:1/x/") == "http://a:1/x"  # a path of the file system


@given(st.lists(st.integers(1, 1900), min_size=20, max_size=60))
def test_a_histogram_gives_its_mean_back(lengths: list[int]) -> None:
    counts = {float(labels["le"]): value for labels, value in histogram(lengths)}
    found = of_histogram(counts, fmean(lengths))
    assert len(found) == VALUES and found == sorted(found)
    assert fmean(found) == pytest.approx(fmean(lengths), rel=0.05, abs=1)
