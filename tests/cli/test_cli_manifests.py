"""`manifests` as a person uses it: written, completed, checked, and told what is wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pilothouse.cli import manifests_command
from pilothouse.cli.app import app
from pilothouse.plan.manifests.targets import TARGETS

PLAN = """
name: small
model: qwen3-8b
objective: {ttft_s: 1.0}
workload: {kind: chat}
pools: [{name: main, replicas: 1, gpu: h100_sxm, layout: {tp: 1}}]
"""
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_written_refused_for_want_of_digests_then_filled(plan: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "out", CliRunner().invoke
    written = run(app, ["manifests", str(plan), "--site", "east", "-o", str(out)])
    assert written.exit_code == 0 and "give --image engine=NAME@sha256:DIGEST" in written.output
    refused = run(app, ["manifests", str(out)])
    assert refused.exit_code == 2 and "fill in the digest of docker.io/vllm/vllm-openai" in refused.output
    images = [f"--image={role}=registry.example/{role}@{DIGEST}" for role in ("engine", "gateway")]
    filled = run(app, ["manifests", str(plan), *images, "-o", str(out)])
    assert filled.exit_code == 0 and "digest" not in filled.output
    assert run(app, ["manifests", str(out)]).exit_code == 0


def test_help_names_every_target() -> None:
    assert ", ".join(TARGETS) == manifests_command.TARGETS


def test_a_short_name_becomes_the_hubs(plan: Path) -> None:
    shown = CliRunner().invoke(app, ["manifests", str(plan), "--target", "vllm"])
    assert "vllm serve Qwen/Qwen3-8B " in shown.output and "--served-model-name qwen3-8b" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "nomad"], "--target: 'nomad' is none of vllm"),
        (["--image", "engine"], "--image: 'engine' is not NAME=VALUE"),
        (["--image", "motor=x"], "--image: 'motor' is none of engine"),
        (["--scale", "main=bulk"], "is not POOL=CLASS:MIN-MAX"),
        (["--site", "Ost"], "--site: 'Ost' is not a DNS label"),
    ],
)
def test_mistakes_are_named(plan: Path, arguments: list[str], said: str) -> None:
    told = CliRunner().invoke(app, ["manifests", str(plan), *arguments])
    assert told.exit_code == 2 and said in told.output


def test_a_broken_plan_is_refused_with_every_place(plan: Path) -> None:
    plan.write_text(PLAN.replace("tp: 1", "tq: 1").replace("ttft_s: 1.0", "ttft_s: soon"))
    told = CliRunner().invoke(app, ["manifests", str(plan)]).output
    assert "pools[0].layout.tq: unknown field" in told and "objective.ttft_s" in told
