"""Classes of requests with objectives of their own: laws of the sums, of the search, and simulation."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.plan.analytic import Fleet, Pool, load_at, rate_max
from pilothouse.plan.asks import asks_of, by_clock, closed_of
from pilothouse.plan.division import divisions
from pilothouse.plan.document import Layout, Objective, Plan, PoolPlan
from pilothouse.plan.engines import engine_of
from pilothouse.plan.plan_file import moved, plan_text, read_plan
from pilothouse.plan.promise import keeps
from pilothouse.plan.question import Goal, Question, Stock
from pilothouse.plan.rehearsal import confirmed, expected_of, job, rehearse
from pilothouse.plan.search import search
from pilothouse.workload.mix import Mix, Tenant
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe

MODEL, H100 = MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"]


def mixed(**tenants: dict[str, object]) -> Workload:
    specs = [
        OpenLoop(phases=[Phase(rate=more.pop("rate"), seconds=300)], **more)  # type: ignore[arg-type]
        for more in map(dict, tenants.values())
    ]
    names = [Tenant(name, None) for name in tenants]
    return Recipe(Mix(names), parts=[Recipe(spec) for spec in specs]).make(1)


WORK = mixed(
    support={"rate": 4, "prompt_tokens": (100, 500), "output_tokens": (50, 150), "prefixes": 1, "prefix_tokens": 1600},
    reports={"rate": 1, "prompt_tokens": (4000, 8000), "output_tokens": (300, 600)},
)
ASKS = asks_of(WORK)
POOL = PoolPlan(name="engines", replicas=2, layout=Layout(tp=2), gpu="h100_sxm")
ENGINE = engine_of(POOL, MODEL, H100, ASKS.demand.context_mean)
QUESTION = Question(
    name="q", model=MODEL, stocks=[Stock(gpu=H100, count=8)], asks=ASKS, workload=None,
    objective=Objective(ttft_s=4.0, tpot_s=0.06), classes={"support": Objective(ttft_s=0.4, tpot_s=0.04)},
    speculation=False, tiers=False,
)  # fmt: skip


def test_a_workload_tells_its_classes_apart() -> None:
    support, reports = ASKS.classes["support"], ASKS.classes["reports"]
    assert support.share == pytest.approx(0.8, rel=0.01) and support.share + reports.share == pytest.approx(1)
    assert max(support.prompts) < min(reports.prompts) and reports.hits == 0 < 1 < support.hits


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2), st.floats(0.5, 8), st.integers(60, 95))
def test_long_prompts_wait_longest_and_a_lower_percentile_is_no_later(
    replicas: int, prefill: int, rate: float, percentile: int
) -> None:
    fleet = Fleet(Pool(ENGINE, replicas), Pool(ENGINE, prefill) if prefill else None)
    strict, loose = (
        load_at(fleet, ASKS, rate, 95, 0.3, dict.fromkeys(ASKS.classes, Objective(percentile=p))).classes
        for p in (99, percentile)
    )
    assert strict["support"].ttft_us <= strict["reports"].ttft_us
    for name in ASKS.classes:
        assert loose[name].ttft_us <= strict[name].ttft_us and loose[name].tpot_us <= strict[name].tpot_us


def test_one_class_is_all() -> None:
    asks = asks_of(mixed(only={"rate": 3}))
    found = load_at(Fleet(Pool(ENGINE, 1)), asks, 3, 95, classes={"only": Objective()})
    assert found.classes["only"].ttft_us == found.ttft_us and found.classes["only"].tpot_us == found.tpot_us


def test_the_highest_rate_is_that_of_the_strictest_class() -> None:
    fleet, limits = Fleet(Pool(ENGINE, 2)), (float("inf"), float("inf"))
    own = {"support": Objective(ttft_s=0.3), "reports": Objective()}
    with_limit, without = (
        rate_max(fleet, ASKS, 95, limits, 0.3, classes)[0] for classes in (own, dict.fromkeys(own, Objective()))
    )
    assert 0 < with_limit < without


def test_a_plan_keeps_what_every_class_is_promised() -> None:
    found = search(QUESTION)
    for plan in found.plans:
        met = expected_of(plan).classes
        assert list(met) == ["support", "reports"] and plan.classes == QUESTION.classes
        assert keeps(plan.objective, expected_of(plan)) and met["support"].ttft_s <= 0.4 and met["reports"].ttft_s <= 4
        assert sum(each.requests_per_s for each in met.values()) == pytest.approx(expected_of(plan).requests_per_s)
    refused = search(replace(QUESTION, classes={"reports": Objective(ttft_s=0.05)}))
    assert not refused.plans and any("reports: TTFT p95" in way.why for way in refused.rejected)


def test_a_class_with_no_limit_costs_no_gpu() -> None:
    strict, free = (
        search(replace(QUESTION, objective=Objective(tpot_s=0.012), classes=classes)).plans
        for classes in ({"support": Objective(tpot_s=0.012)}, {"support": Objective(), "reports": Objective()})
    )
    assert free[0].gpus < min([plan.gpus for plan in strict], default=100)


def test_simulation_tells_each_class_and_agrees() -> None:
    plan = search(replace(QUESTION, split=False)).plans[0]
    sums = expected_of(plan)
    done = confirmed(plan, rehearse(job(plan, QUESTION.hardware, ASKS, WORK)))
    for name, met in expected_of(done).classes.items():
        said = any(
            name in note for note in expected_of(done).notes if note.startswith("sums of single classes are off")
        )
        assert said or met.ttft_s == pytest.approx(sums.classes[name].ttft_s, rel=0.11)
        assert met.tpot_s == pytest.approx(sums.classes[name].tpot_s, rel=0.2)
    assert expected_of(done).classes["support"].ttft_s < expected_of(done).classes["reports"].ttft_s


def test_a_plan_file_holds_the_classes(tmp_path: Path) -> None:
    plan = Plan(name="p", model="m", pools=[POOL], objective=Objective(), workload="w", classes=QUESTION.classes)
    path = tmp_path / "plan.yaml"
    path.write_text(plan_text(plan))
    assert read_plan(path) == plan
    assert "classes" not in plan_text(replace(plan, classes={}))


def test_paths_of_a_workload_move_with_its_plan() -> None:
    said = {
        "kind": "mix",
        "tenants": [{"name": "a", "workload": "a.yaml"}, {"name": "b", "workload": {"file": "t.csv"}}],
    }
    tenants = moved(said, Path("/one/two"), Path("/one"))["tenants"]
    assert tenants == [{"name": "a", "workload": "two/a.yaml"}, {"name": "b", "workload": {"file": "two/t.csv"}}]
    assert moved("x.yaml", Path("/one"), Path("/one/two")) == "../x.yaml" and said["tenants"][0]["workload"] == "a.yaml"


# --- one fleet for all, or several

BATCH = mixed(
    support={"rate": 12, "prompt_tokens": (300, 900), "output_tokens": (50, 200)},
    nightly={"rate": 6, "prompt_tokens": (500, 2000), "output_tokens": (500, 2000)},
)


def asked_of(work: Workload, **classes: Objective) -> Question:
    return replace(
        QUESTION, stocks=[Stock(gpu=H100, count=32)], asks=asks_of(work), objective=Objective(), classes=classes
    )


def test_who_waits_for_nobody_is_cheaper_by_himself() -> None:
    question = asked_of(BATCH, support=Objective(ttft_s=0.2, tpot_s=0.018))
    found = divisions(question, BATCH)
    assert [len(division.parts) for division in found] == [2, 1] and found[0].gpus < found[1].gpus
    for division in found:
        served = [name for part in division.parts for name in part.classes]
        assert sorted(served) == ["nightly", "support"]
        assert division.gpus == sum(part.plan.gpus for part in division.parts)
    assert found[1].parts[0].plan.pools == search(question).plans[0].pools


def test_equal_classes_share_a_fleet() -> None:
    same = {"rate": 1, "prompt_tokens": (300, 900), "output_tokens": (50, 200)}
    work = mixed(a=same, b=same, c=same)
    found = divisions(asked_of(work, a=Objective(ttft_s=0.5, tpot_s=0.04)), work)
    assert len(found) == 5 and len(found[0].parts) == 1
    assert all(found[0].cost <= division.cost for division in found)


def test_users_who_wait_are_divided_with_their_fleets() -> None:
    loops = [OpenLoop(phases=[Phase(users=users, count=400)], output_tokens=(50, 150)) for users in (30, 10)]
    work = Recipe(Mix([Tenant("many", None), Tenant("few", None)]), parts=[Recipe(loop) for loop in loops]).make(1)
    asks = asks_of(by_clock(work, lambda _: 1e6), closed=closed_of(work, lambda _: 1.0))
    found = divisions(replace(QUESTION, asks=asks, classes={"many": Objective(tpot_s=0.04)}), work)
    apart = next(division for division in found if len(division.parts) == 2)
    under_way = [e.output_per_s * e.tpot_s for part in apart.parts if (e := part.plan.expected)]
    assert under_way == pytest.approx([30, 10], rel=0.25)


def test_what_cannot_be_divided_is_not() -> None:
    assert divisions(replace(QUESTION, classes={}), WORK) == []
    assert divisions(replace(QUESTION, goal=Goal.MAX_GOODPUT), WORK) == []
    assert divisions(replace(QUESTION, classes={"support": Objective(ttft_s=0.001)}), WORK) == []
