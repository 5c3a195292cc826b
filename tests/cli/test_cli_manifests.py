"""`manifests` as a person uses it: written, completed, checked, and told what is wrong."""

import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from pilothouse.cli import manifests_command
from pilothouse.cli.app import app
from pilothouse.plan import blueprint
from pilothouse.plan.manifests.ground import PROMETHEUS
from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.targets import TARGETS
from pilothouse.plan.plan_file import plan_text

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


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["manifests", *map(str, arguments)])


def test_written_refused_for_want_of_digests_then_filled(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = run(plan, "--site", "east", "-o", out)
    assert written.exit_code == 0 and "give --image engine=NAME@sha256:DIGEST" in written.output
    refused = run(out)
    assert refused.exit_code == 2 and "fill in the digest of docker.io/vllm/vllm-openai" in refused.output
    images = [f"--image={role}=registry.example/{role}@{DIGEST}" for role in ("engine", "gateway")]
    filled = run(plan, *images, "-o", out, "--force")
    assert filled.exit_code == 0 and "digest" not in filled.output
    assert "also there, of something else or of an earlier run: overlays/east/kustomization.yaml" in filled.output
    assert run(out).exit_code == 0


def test_files_that_differ_are_not_overwritten_unasked(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(plan, "-o", out).exit_code == run(plan, "-o", out).exit_code == 0
    own = out / "base" / "gateway.yaml"
    own.write_text("mine")
    refused = run(plan, "-o", out)
    assert refused.exit_code == 2 and f"{own}: is there and differs" in refused.output and own.read_text() == "mine"
    assert run(plan, "-o", out, "--force").exit_code == 0 and own.read_text() != "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(plan: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in run(plan, "-o", tmp_path / "out").output


def test_a_file_in_place_of_the_folder_is_named(plan: Path) -> None:
    told = run(plan, "-o", plan)
    assert told.exit_code == 2 and "cannot be written" in told.output


def test_help_names_every_target_and_image() -> None:
    assert ", ".join(TARGETS) == manifests_command.TARGETS
    assert ", ".join(Images.roles()) == manifests_command.IMAGES
    assert PROMETHEUS in CliRunner().invoke(app, ["manifests", "--help"], env={"COLUMNS": "250"}).output


def test_a_short_name_becomes_the_hubs(plan: Path) -> None:
    shown = run(plan, "--target", "vllm")
    assert "vllm serve Qwen/Qwen3-8B " in shown.output and "--served-model-name qwen3-8b" in shown.output


def test_standard_output_is_what_kubectl_takes(plan: Path) -> None:
    shown = CliRunner().invoke(app, ["manifests", str(plan), "--site", "east"]).stdout
    kinds = [each["kind"] for each in yaml.safe_load_all(shown)]
    assert "Deployment" in kinds and "Kustomization" not in kinds


def test_a_name_of_ones_own_is_that_of_all_objects(plan: Path) -> None:
    shown = CliRunner().invoke(app, ["manifests", str(plan), "--name", "shop"]).stdout
    assert {each["metadata"]["name"].split("-")[0] for each in yaml.safe_load_all(shown)} == {"shop"}


@pytest.mark.parametrize("several", ["documents", "files", "folder"])
def test_plans_of_one_blueprint_are_behind_one_gateway(several: str, tmp_path: Path) -> None:
    plans = blueprint.load("grid").plans
    folder = tmp_path / "plans"
    folder.mkdir()
    paths = [folder / f"{each.name}.yaml" for each in plans]
    for each, path in zip(plans, paths, strict=True):
        path.write_text(plan_text(each))
    if several == "documents":
        paths = [tmp_path / "all.yaml"]
        paths[0].write_text("---\n".join(plan_text(each) for each in plans))
    done = run(*([folder] if several == "folder" else paths), "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    objects = list(yaml.safe_load_all((tmp_path / "out" / "base" / "gateway.yaml").read_text()))
    (config,) = [yaml.safe_load(each["data"]["pilothouse.yaml"]) for each in objects if each["kind"] == "ConfigMap"]
    assert {tuple(pool["models"]) for pool in config["pools"]} == {(each.model,) for each in plans}
    assert objects[0]["metadata"]["name"] == "grid-gateway"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "nomad"], "--target: 'nomad' is none of vllm"),
        (["--image", "engine"], "--image: 'engine' is not NAME=VALUE"),
        (["--image", "motor=x"], "--image: 'motor' is none of engine"),
        (["--image", "engine=vllm/vllm-openai:latest"], "--image engine: vllm/vllm-openai:latest is not pinned"),
        (["--scale", "main=bulk"], "is not POOL=CLASS:MIN-MAX"),
        (["--scale", "main=Bulk Load:0-2"], "class 'Bulk Load' is not a DNS label"),
        (["--site", "Ost"], "--site: 'Ost' is not a DNS label"),
        (["--sites", "none.yaml"], "none.yaml: cannot be read"),
        (["--weights", "other=hf://a/b"], "no plan 'other', there are: small"),
        (["--host", "a b"], "'a b' is neither a host name"),
        (["--namespace", "My_Space"], "--namespace: 'My_Space' is not a DNS label"),
        (["--prometheus", "prometheus:9090"], "is not http://HOST:PORT"),
        (["--rdma", "yes"], "is not a resource of nodes"),
    ],
)
def test_mistakes_are_named(plan: Path, arguments: list[str], said: str) -> None:
    told = run(plan, *arguments)
    assert told.exit_code == 2 and said in told.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: main", "name: 'a: {b}'", "is not a DNS label"),
        ("name: main", "name: " + "a" * 30, "is not a DNS label of at most 24"),
        ("name: main", "name: gateway", "two objects would be"),
        ("replicas: 1", "replicas: 0", "replicas: Expected `int` >= 1"),
        ("gpu: h100_sxm", "gpu: tpu_v6e", "manifests are for NVIDIA and AMD GPUs"),
        ("layout: {tp: 1}", "layout: {tp: 1}, role: decode, connector: nixl", "no prefill pool with connector 'nixl'"),
        ("layout: {tp: 1}", "layout: {tp: 1}, connector: nixl", "is for pools of role prefill or decode"),
        ("layout: {tp: 1}", "layout: {tp: 1}, memory_utilisation: 90", "Expected `float` <= 1"),
        ("layout: {tp: 1}", "layout: {tp: 1}, tiers: {remote: 100}", "a shared store is a server of its own"),
        ("model: qwen3-8b", 'model: "/srv/a\\nb"', "printed characters"),
        ("workload:", "policy: fastest\nworkload:", "pilothouse: policy: unknown policy 'fastest'"),
        ("workload:", "gateway: {limits: {body: -1}}\nworkload:", "pilothouse: gateway.limits.body: "),
        ("workload:", "gateway: {listen: '127.0.0.1:1'}\nworkload:", "gateway.listen: probes and Services go by"),
        ("pools: [{name: main, replicas: 1, gpu: h100_sxm, layout: {tp: 1}}]", "pools: []", "nothing to deploy"),
    ],
)
def test_hostile_plans_are_refused(plan: Path, old: str, new: str, said: str) -> None:
    plan.write_text(PLAN.replace(old, new))
    told = run(plan)
    assert told.exit_code == 2 and said in told.output


def test_a_name_is_no_way_into_yaml_or_shell(plan: Path, tmp_path: Path) -> None:
    plan.write_text(PLAN.replace("name: small", 'name: "x\\nkind: Secret; $(touch y)"'))
    for target in TARGETS:
        done = run(plan, "--target", target, "-o", tmp_path / target)
        assert done.exit_code == 0, done.output
        for path in (tmp_path / target).rglob("*"):
            if path.is_file():
                assert "touch y" not in path.read_text() and "kind: Secret" not in path.read_text()


def test_what_is_no_plan_is_told_apart(plan: Path, tmp_path: Path) -> None:
    plan.write_text("model: qwen3-8b\ngpu: h100\ngpus: 4\n")
    told = run(plan)
    assert told.exit_code == 2 and "is no plan, for it has no pools: `pilothouse plan" in told.output
    told = run(tmp_path)
    assert told.exit_code == 2 and "is no folder that -o named" in told.output


def test_a_broken_plan_is_refused_with_every_place(plan: Path) -> None:
    plan.write_text(PLAN.replace("tp: 1", "tq: 1").replace("ttft_s: 1.0", "ttft_s: soon"))
    told = run(plan).output
    assert "pools[0].layout.tq: unknown field" in told and "objective.ttft_s" in told


def test_nothing_that_was_named_is_passed_over(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(plan, "-o", out)
    for arguments in ([plan, out], [out, "-o", tmp_path / "other"]):
        told = run(*arguments)
        assert told.exit_code == 2 and f"{out}: holds no plans, so it is checked" in told.output
    (tmp_path / "load.yaml").write_text("kind: chat")
    told = run(tmp_path, "-o", out)
    assert told.exit_code == 2 and "holds plans, and what is none: load.yaml" in told.output
    assert "published on every interface" in run(plan, "--target", "vllm").output
    assert "--host changes nothing in what kubernetes writes" in run(plan, "--host", "10.0.0.1").output
