"""Overlays: each site's own numbers, images, nodes and disks, as kustomize builds them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_plans import DIGEST, NAMES, fleet, refused, weights

from pilothouse.core.errors import ConfigError
from pilothouse.plan.manifests.ground import Scaling, Site
from pilothouse.plan.manifests.idle import idle
from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.sites import read_sites
from pilothouse.plan.manifests.targets import TARGETS, render, write

ON_KUBERNETES = [target for target in TARGETS if target not in ("vllm", "compose")]
CASES = [
    (name, target)
    for target in ON_KUBERNETES
    for name in ("prefill_decode", "moe_wide", "stages", "blueprint grid")
    if not refused(name, target)
]
MIRROR = "mirror.east/vllm"


def site(name: str) -> Site:
    counts = {pool.name: 5 for _, pool in fleet(name).pools}
    return Site(
        name="east", replicas=counts, images={"engine": f"{MIRROR}@{DIGEST}"}, node_labels={"zone": "e1"},
        storage_class="local-nvme",
    )  # fmt: skip


def built(name: str, target: str, folder: Path) -> list[dict[str, Any]]:
    tools = (["kustomize", "build"], ["kubectl", "kustomize"])
    tool = next((command for command in tools if shutil.which(command[0])), None)
    if tool is None:
        pytest.skip("needs kustomize or kubectl")
    write(render(fleet(name, weights(name, target), sites=(site(name),), namespace="models"), target), folder)
    done = subprocess.run([*tool, str(folder / "overlays" / "east")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(value: Any) -> list[dict[str, Any]]:
    """Every PodSpec in an object."""
    if isinstance(value, list):
        return [pod for each in value for pod in pods(each)]
    if not isinstance(value, dict):
        return []
    inner = [pod for each in value.values() for pod in pods(each)]
    return [value, *inner] if "containers" in value and "volumes" in value else inner


@pytest.mark.parametrize(("name", "target"), CASES)
def test_a_site_has_what_it_has_otherwise(name: str, target: str, tmp_path: Path) -> None:
    made = built(name, target, tmp_path)
    assert {each["metadata"]["labels"]["pilothouse.io/site"] for each in made} == {"east"}
    assert {each["metadata"]["namespace"] for each in made} == {"models"}
    engines = [each for each in made if each["kind"] in ("LLMInferenceService", "InferenceService", "LeaderWorkerSet")]
    engines += [
        each for each in made if each["kind"] == "Deployment" and "pilothouse.io/pool" in each["metadata"]["labels"]
    ]
    assert engines
    for each in engines:
        spec = each["spec"]
        assert 5 in (spec.get("replicas"), spec.get("predictor", {}).get("minReplicas"))
        for pod in pods(spec):
            images = {container["image"] for container in pod["containers"]}
            assert f"{MIRROR}@{DIGEST}" in images
            assert pod["nodeSelector"] == {"zone": "e1"}
            for volume in pod["volumes"]:
                if volume["name"] == "kv":
                    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
                    assert claim["storageClassName"] == "local-nvme"
    if name == "prefill_decode":
        assert "local-nvme" in str(engines)


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_site_repeats_the_base_to_be_changed(name: str) -> None:
    files = {file.path: file.text for file in render(fleet(name, sites=(Site(name="a"),)), "kubernetes")}
    patches = yaml.safe_load(files["overlays/a/kustomization.yaml"])["patches"]
    counts = [step["value"] for patch in patches for step in yaml.safe_load(patch["patch"])]
    assert counts == [pool.replicas for _, pool in fleet(name).pools]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("east: {replicas: {main: many}}", "east.replicas"),
        ("east: {replica: {main: 1}}", "unknown field"),
        ("- east", "is not NAME: {...}"),
    ],
)
def test_a_wrong_file_of_sites_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sites.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_sites(path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Site(name="East"), "is not a DNS label"),
        (Site(name="east", replicas={"other": 1}), "no pool 'other'"),
        (Site(name="east", replicas={"main": -1}), "less than none"),
        (Site(name="east", images={"motor": f"x@{DIGEST}"}), "'motor' is none of"),
        (Site(name="east", images={"engine": "x:latest"}), "is not pinned"),
        (Site(name="east", node_labels={"rack 1": "a"}), "no label of a node"),
        (Site(name="east", node_labels={"rack": "väl ue"}), "no label of a node"),
        (Site(name="east", storage_class="Fast Disks"), "no name of a class"),
    ],
)
def test_a_site_that_cannot_be_is_refused(wrong: Site, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        render(fleet("single", sites=(wrong,)), "kubernetes")


@pytest.mark.parametrize(
    ("ground", "target", "said"),
    [
        ({}, "kubernetes", []),
        ({"rdma": "rdma/ib", "namespace": "prod"}, "kubernetes", ["--rdma"]),  # one node, nothing exchanged
        ({"hosts": ("10.0.0.1",)}, "vllm", []),
        ({"hosts": ("10.0.0.1",), "gateway": "own"}, "kubernetes", ["--host", "--gateway"]),
        ({"gateway": "own"}, "llm-d", []),
        ({"images": Images(engine=f"x@{DIGEST}", sidecar=f"y@{DIGEST}")}, "kserve", ["--image sidecar"]),
        ({"sites": (Site(name="east"),)}, "compose", ["--site east"]),
        ({"scaling": (Scaling("main", "chat", 1, 4, 3),)}, "kserve", ["--scale main: @3"]),
        ({"scaling": (Scaling("main", "chat", 1, 4, 3),)}, "kubernetes", []),
        (
            {"sites": (Site(name="east", storage_class="fast", node_labels={"rack": "a"}),)},
            "kubernetes",
            ["--site east: storage_class"],
        ),
    ],
)
def test_what_was_said_in_vain_is_told(ground: dict[str, Any], target: str, said: list[str]) -> None:
    made = fleet("single", **({"images": Images()} | ground))
    lines = idle(made, target, render(made, target))
    assert [line.partition(" changes nothing")[0] for line in lines] == said
