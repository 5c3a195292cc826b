"""Advice on tiers: laws of the curve, then what is said about workloads of which the answer is known."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.cli.advising_tiers import advice
from pilothouse.core.errors import ConfigError
from pilothouse.core.events import Tier
from pilothouse.perf.storage import STORAGES
from pilothouse.plan.machine import Wanted
from pilothouse.plan.source import Source, read_source
from pilothouse.plan.tiers import TierAdvice
from pilothouse.workload.demand import context_mean, succession, survey
from pilothouse.workload.profile import describe
from tests.journal.days import conversations, record
from tests.workload.recipes import RECIPES, agentic_session, azure_rows, mooncake_rows, sharegpt_rows

H100 = Wanted("qwen3-8b", "h100")
runner = CliRunner()


def said(source: Source, **known: int) -> TierAdvice:
    return advice(msgspec.structs.replace(source, **known), H100)


@pytest.mark.parametrize("name", RECIPES)
def test_the_ceiling_is_the_hit_rate_of_one_cache_without_limit(name: str) -> None:
    """Where requests come in the order of the list, that is what the workload's own description counts."""
    workload = RECIPES[name].make(1)
    surveyed, profile = survey(workload, lambda _: 0.0), describe(workload)
    found, curve = surveyed.demand, surveyed.curve
    assert all(stage.reported for stage in workload.stages) and context_mean(workload) == found.context_mean
    assert found.requests == profile.requests and found.prompt_mean == profile.prompt.mean
    ceiling = curve.ceiling * workload.block_size / found.prompt_tokens
    assert ceiling <= 1
    if not found.closed and not any(planned.output_blocks for stage in workload.stages for planned in stage.requests):
        assert ceiling == pytest.approx(profile.shared_ratio)


@pytest.mark.parametrize("name", RECIPES)
def test_every_request_comes_once_and_none_before_the_one_it_follows(name: str) -> None:
    for stage in RECIPES[name].make(2).stages:
        met: dict[str, float] = {}
        last_us = 0.0
        for at_us, planned in succession(stage, lambda p: 1000.0 * p.output_tokens):
            assert at_us >= last_us and planned.request not in met
            assert planned.after is None or met[planned.after] <= at_us
            met[planned.request] = last_us = at_us
        assert len(met) == len(stage.requests)


@pytest.mark.parametrize("name", ["chat users", "rag", "agentic trace"])
def test_several_caches_never_hit_more_than_one_without_limit(name: str) -> None:
    workload = RECIPES[name].make(1)
    found = survey(workload, lambda _: 0.0, 3)
    one, several = found.curve, found.apart
    assert sum(curve.ceiling for curve in several) <= one.ceiling
    assert sum(curve.lookups for curve in several) == one.lookups


def test_a_cache_that_holds_all_needs_no_tiers() -> None:
    found = said(Source("chat", RECIPES["chat users"].make(1)), kv_tokens=10_000_000)
    assert found.pays is False and found.hit_ratio == found.ceiling > 0.1
    assert found.tenfold.startswith("no:") and "do not pay" in found.verdict


def test_a_cache_far_too_small_wants_the_tier_that_holds_what_comes_again() -> None:
    found = said(Source("chat", RECIPES["chat users"].make(1)), kv_tokens=512)
    assert found.pays and found.tenfold.startswith("yes:") and found.verdict.startswith("tiers pay: DRAM of")
    assert found.hit_ratio is not None and found.hit_ratio < found.ceiling
    dram = next(below for below in found.tiers if below.tier is Tier.DRAM)
    assert dram.hit_ratio == found.ceiling and dram.fetch_us < dram.compute_us
    assert found.wanted_tokens <= found.enough_tokens <= found.unique_tokens
    hits = [point.hit_ratio for point in found.curve]
    assert hits == sorted(hits) and hits[-1] == found.ceiling


def test_what_is_fetched_more_slowly_than_computed_does_not_pay() -> None:
    slow = {tier: msgspec.structs.replace(storage, gb_per_s=0.01) for tier, storage in STORAGES.items()}
    found = advice(Source("chat", RECIPES["chat users"].make(1), kv_tokens=512), H100, storages=slow)
    assert found.pays is False and "do not pay: a token is fetched" in found.verdict


def test_without_sharing_no_cache_helps() -> None:
    found = said(Source("azure", RECIPES["azure none"].make(1)))
    assert found.ceiling == 0 and found.pays is False and "whatever the cache" in found.verdict


def test_a_journal_knows_its_engines_and_what_they_found(tmp_path: Path) -> None:
    record(tmp_path / "day", conversations(30))
    source = read_source(tmp_path / "day")
    assert (source.engines, source.kv_tokens) == (3, 3 * 900 * 16)
    assert source.cached_ratio is not None and source.cached_ratio > 0.3
    found = advice(source, H100)
    assert found.hit_ratio is not None and found.measured_ratio == source.cached_ratio
    assert found.hit_ratio == pytest.approx(source.cached_ratio, abs=0.1)
    assert found.curve[0].apart_ratio is not None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.jsonl", mooncake_rows()),
        ("s.jsonl", sharegpt_rows()),
        ("a.csv", azure_rows()),
        ("t.json", agentic_session()),
    ],
)
def test_bare_traces_are_known_by_what_is_in_them(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    found = runner.invoke(app, ["advise", "tiers", str(tmp_path / name), "--json"])
    assert found.exit_code == 0, found.output
    assert msgspec.json.decode(found.output, type=TierAdvice).requests > 0


@pytest.mark.parametrize("name", ["none.jsonl", "other.txt"])
def test_what_is_no_source_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"SOURCE: .*a journal's directory, a trace"):
        read_source(tmp_path / name)


def test_the_command_shows_a_curve_and_draws_it(tmp_path: Path) -> None:
    scenario = tmp_path / "chat.yaml"
    scenario.write_text(
        "pools: [{model: qwen3-8b, gpu: h100, replicas: 2, kv_blocks: 100}]\n"
        "workload: {kind: chat, stages: [{users: 4, count: 12}], turns: 3, block_size: 16}\n"
    )
    page = tmp_path / "page.html"
    said = runner.invoke(
        app, ["advise", "tiers", str(scenario), "--model", "qwen3-8b", "--gpu", "h100", "--page", str(page)]
    )
    assert said.exit_code == 0, said.output
    assert "HBM" in said.output and "tiers pay" in said.output and "apart" in said.output
    assert "caches of their own" in page.read_text(encoding="utf-8")
    wrong = runner.invoke(app, ["advise", "tiers", str(scenario), "--model", "qwen3-8b"])
    assert wrong.exit_code == 2 and "--gpu: is missing" in wrong.output
