"""Every target for every example plan: what it is made of loads, names only what is there, and is pinned."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_plans import FILLED, HOSTS, NAMES, SCALED, order, refused, scaled, weights

from pilothouse.config import disaggregation
from pilothouse.config.load import load
from pilothouse.core.errors import ConfigError
from pilothouse.plan.manifests.checking import check
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.images import Images, image_problems
from pilothouse.plan.manifests.order import Order, Weights
from pilothouse.plan.manifests.targets import TARGETS, render, write

CASES = [(name, target) for target in TARGETS for name in NAMES if not refused(name, target)]


def asked(name: str, target: str = "kubernetes", **changes: Any) -> Order:
    more = scaled(target) if name == "grid" else {}
    return order(name, hosts=HOSTS, sites=("east", "west"), **weights(name, target), **more, **changes)


def objects(files: list[File], kind: str) -> list[dict[str, Any]]:
    parts = [part for file in files if file.path.endswith(".yaml") for part in yaml.safe_load_all(file.text)]
    return [part for part in parts if part.get("kind") == kind]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_what_is_written_passes_its_own_check(name: str, target: str, tmp_path: Path) -> None:
    write(render(asked(name, target), target), tmp_path)
    assert check(tmp_path) == []


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[0] in ("grid", "prefill_decode")])
def test_no_image_is_left_to_chance(name: str, target: str) -> None:
    for file in render(asked(name, target, images=Images()), target):
        assert ":latest" not in file.text
        if file.path.endswith(".yaml") and "image: " in file.text:
            found = [problem for part in yaml.safe_load_all(file.text) for problem in image_problems(part, file.path)]
            assert found and all("fill in the digest" in problem.what for problem in found)


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[1] not in ("kserve", "llm-d")])
def test_the_gateway_is_told_of_every_pool(name: str, target: str) -> None:
    made = render(asked(name, target), target)
    texts = [file.text for file in made if file.path.endswith("pilothouse.yaml")]
    texts += [map_["data"]["pilothouse.yaml"] for map_ in objects(made, "ConfigMap")]
    config = load(texts[0])
    plan = asked(name).plan
    assert [(pool.name, pool.role) for pool in config.pools] == [(pool.name, pool.role) for pool in plan.pools]
    assert disaggregation.remarks(config) == []
    if target in ("vllm", "compose"):
        assert [len(pool.endpoints) for pool in config.pools] == [pool.replicas for pool in plan.pools]


@pytest.mark.parametrize("name", NAMES)
def test_gpus_of_all_pods_are_those_of_the_plan(name: str) -> None:
    made = render(order(name), "kubernetes")
    count = 0
    for each in objects(made, "Deployment"):
        count += each["spec"]["replicas"] * gpus(each["spec"]["template"])
    for each in objects(made, "LeaderWorkerSet"):
        group = each["spec"]["leaderWorkerTemplate"]
        engine = gpus(group["leaderTemplate"]) + (group["size"] - 1) * gpus(group["workerTemplate"])
        count += each["spec"]["replicas"] * engine
    assert count == order(name).plan.gpus


def gpus(template: dict[str, Any]) -> int:
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    return sum(int(value) for key, value in limits.items() if "/" in key)


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_unprivileged_and_probed(name: str) -> None:
    for each in objects(render(order(name), "kubernetes"), "Deployment"):
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["enableServiceLinks"]
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["readinessProbe"] and container["livenessProbe"]


def test_scaled_pools_leave_their_replicas_to_keda() -> None:
    made = render(asked("grid"), "kubernetes")
    (scaler,) = objects(made, "ScaledObject")
    counts = {each["metadata"]["name"]: each["spec"].get("replicas") for each in objects(made, "Deployment")}
    assert scaler["spec"]["scaleTargetRef"]["name"] == "grid-bulk" and scaler["spec"]["minReplicaCount"] == 0
    assert counts == {"grid-interactive": 2, "grid-bulk": None, "grid-gateway": 1}


@pytest.mark.parametrize(
    ("uri", "volume", "argument"),
    [
        ("pvc://claim/qwen/v1", {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}, "/models/qwen/v1"),
        (
            f"oci://{FILLED.engine}",
            {"image": {"reference": FILLED.engine, "pullPolicy": "IfNotPresent"}},
            "/models",
        ),
        ("/srv/qwen", {"hostPath": {"path": "/srv/qwen", "type": "Directory"}}, "/srv/qwen"),
    ],
)
def test_weights_come_from_where_they_are_said_to_be(uri: str, volume: dict[str, Any], argument: str) -> None:
    engine = objects(render(order("single", weights=Weights(uri)), "kubernetes"), "Deployment")[0]
    pod = engine["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][0] == argument
    assert {"name": "models", **volume} in pod["volumes"]


def test_an_image_volume_must_be_pinned_too(tmp_path: Path) -> None:
    write(render(order("single", weights=Weights("oci://registry.example/qwen:1")), "kubernetes"), tmp_path)
    assert [problem.what for problem in check(tmp_path)] == [
        "registry.example/qwen:1 is not pinned: write NAME@sha256:DIGEST"
    ]


def test_a_broken_reference_is_found(tmp_path: Path) -> None:
    write(render(asked("grid"), "kubernetes"), tmp_path)
    path = tmp_path / "base" / "scaling.yaml"
    path.write_text(path.read_text().replace("name: grid-bulk", "name: grid-bulky"))
    (tmp_path / "base" / "monitoring.yaml").unlink()
    assert sorted(str(problem) for problem in check(tmp_path)) == [
        "ScaledObject grid-bulky: names Deployment grid-bulky, which is not there",
        "base/kustomization.yaml: resources[2]: monitoring.yaml does not exist",
    ]


@pytest.mark.parametrize(
    ("name", "target", "changes", "said"),
    [
        ("moe_wide", "compose", {}, "compose runs on one machine of 8"),
        ("moe_wide", "vllm", {"hosts": HOSTS[:2]}, "need 4 machines"),
        ("single", "vllm", {"weights": Weights("pvc://claim")}, "outside Kubernetes"),
        ("single", "kubernetes", {"weights": Weights("s3://bucket")}, "is neither hf://"),
        ("single", "kubernetes", SCALED, "no pool 'bulk'"),
        ("grid", "kserve", SCALED, "does not scale to zero"),
        ("moe_wide", "inferenceservice", {}, "one pod per pipeline stage"),
        ("grid", "inferenceservice", SCALED, "use --target kubernetes or kserve"),
        ("grid", "llm-d", SCALED, "nobody holds requests"),
        ("single", "kserve", {"weights": Weights("/srv/qwen")}, "KServe fetches"),
    ],
)
def test_what_a_target_cannot_do_is_said(name: str, target: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        render(order(name, **changes), target)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_bash(name: str) -> None:
    for file in render(asked(name), "vllm"):
        if file.path.endswith(".sh"):
            done = subprocess.run(["bash", "-n"], input=file.text, text=True, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "target"),
    [("prefill_decode", "kubernetes"), ("moe_wide", "kubernetes"), ("prefill_decode", "kserve"), ("moe_wide", "llm-d"),
     ("grid", "inferenceservice")],
)  # fmt: skip
def test_overlays_build(name: str, target: str, tmp_path: Path) -> None:
    tool = next(
        (command for command in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(command[0])), None
    )
    if tool is None:
        pytest.skip("needs kustomize or kubectl")
    write(render(asked(name, target), target), tmp_path)
    path = tmp_path / "overlays" / "east" / "kustomization.yaml"
    path.write_text(path.read_text().replace("value: 2", "value: 3"))
    done = subprocess.run([*tool, str(path.parent)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {each["metadata"]["labels"]["pilothouse.io/site"] for each in built} == {"east"}
    assert re.search(r"(?m)^ +(replicas|minReplicas): 3$", done.stdout)
