"""Every target for every plan: what it is made of loads, names only what is there, and is pinned."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_plans import FILLED, HOSTS, NAMES, SITES, fleet, refused, scaled, weights

from pilothouse.config import disaggregation
from pilothouse.config.load import load
from pilothouse.core.errors import ConfigError
from pilothouse.plan.manifests.checking import check
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.images import Images, image_problems
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.targets import TARGETS, render, write

CASES = [(name, target) for target in TARGETS for name in NAMES if not refused(name, target)]


def asked(name: str, target: str = "kubernetes", **ground: Any) -> Fleet:
    more = scaled(target) if name == "grid" else {}
    return fleet(name, weights(name, target), **{"hosts": HOSTS, "sites": SITES, **more, **ground})


def objects(files: list[File], *kinds: str) -> list[dict[str, Any]]:
    parts = [part for file in files if file.path.endswith(".yaml") for part in yaml.safe_load_all(file.text)]
    return [part for part in parts if part.get("kind") in kinds]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_what_is_written_passes_its_own_check(name: str, target: str, tmp_path: Path) -> None:
    write(render(asked(name, target), target), tmp_path)
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "target"), [(name, target) for target in TARGETS for name in NAMES if refused(name, target)]
)
def test_the_others_are_refused(name: str, target: str) -> None:
    with pytest.raises(ConfigError):
        render(asked(name, target), target)


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
    (config,) = [load(text) for text in texts]
    pools = asked(name).pools
    assert [(pool.name, pool.role, pool.models) for pool in config.pools] == [
        (pool.name, pool.role, [order.served]) for order, pool in pools
    ]
    assert disaggregation.remarks(config) == []
    if target in ("vllm", "compose"):
        assert [len(pool.endpoints) for pool in config.pools] == [pool.replicas for _, pool in pools]


@pytest.mark.parametrize("name", NAMES)
def test_gpus_of_all_pods_are_those_of_the_plan(name: str) -> None:
    made = render(fleet(name), "kubernetes")
    count = 0
    for each in objects(made, "Deployment"):
        count += each["spec"]["replicas"] * gpus(each["spec"]["template"])
    for each in objects(made, "LeaderWorkerSet"):
        group = each["spec"]["leaderWorkerTemplate"]
        engine = gpus(group["leaderTemplate"]) + (group["size"] - 1) * gpus(group["workerTemplate"])
        count += each["spec"]["replicas"] * engine
    assert count == sum(order.plan.gpus for order in fleet(name).orders)


def gpus(template: dict[str, Any]) -> int:
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    return sum(int(value) for key, value in limits.items() if "/" in key)


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[1] in ("kubernetes", "llm-d")])
def test_pods_are_unprivileged_probed_and_guarded(name: str, target: str) -> None:
    made = render(fleet(name), target)
    for each in objects(made, "Deployment"):
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["enableServiceLinks"]
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["resources"]["requests"] and container["readinessProbe"] and container["livenessProbe"]
    guarded = [each["spec"]["selector"]["matchLabels"] for each in objects(made, "PodDisruptionBudget")]
    assert len(guarded) == len(fleet(name).pools)
    engines = [each for each in objects(made, "NetworkPolicy") if each["metadata"]["name"].endswith("-engine")]
    assert len(engines) == 1


def test_an_engine_may_take_as_long_to_start_as_its_weights_are_large() -> None:
    def start_s(name: str) -> int:
        (each, *_) = objects(render(fleet(name), "kubernetes"), "Deployment", "LeaderWorkerSet")
        template = each["spec"].get("template") or each["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
        probe = template["spec"]["containers"][0]["startupProbe"]
        return int(probe["periodSeconds"] * probe["failureThreshold"])

    assert start_s("single") < 1200 < 3600 < start_s("moe_wide")


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
    engine = objects(render(fleet("single", uri), "kubernetes"), "Deployment")[0]
    pod = engine["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][0] == argument
    assert {"name": "models", **volume} in pod["volumes"]


def test_the_gateway_reads_the_tokenizer_where_the_engines_read_weights() -> None:
    made = render(fleet("single", "pvc://claim/qwen/v1"), "kubernetes")
    (config,) = [load(each["data"]["pilothouse.yaml"]) for each in objects(made, "ConfigMap")]
    assert config.pools[0].tokenizer == "/models/chat-single/qwen/v1"
    gateway = objects(made, "Deployment")[1]["spec"]["template"]["spec"]
    mount = {"name": "chat-single", "mountPath": "/models/chat-single", "readOnly": True}
    assert mount in gateway["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", NAMES)
def test_pods_go_where_their_gpu_is(name: str) -> None:
    made = objects(render(fleet(name), "kubernetes"), "Deployment", "LeaderWorkerSet")
    engines = [each for each in made if not each["metadata"]["name"].endswith("-gateway")]
    for (_, pool), each in zip(fleet(name).pools, engines, strict=True):
        template = each["spec"].get("template") or each["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        affinity = template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (rule,) = affinity["nodeSelectorTerms"][0]["matchExpressions"]
        amd = pool.gpu == "mi300x"
        assert rule["key"] == ("amd.com/gpu.product-name" if amd else "nvidia.com/gpu.product")
        assert pool.gpu.partition("_")[0].upper() in rule["values"][0].upper()
        container = template["spec"]["containers"][0]
        assert ("amd.com/gpu" in container["resources"]["limits"]) == amd == ("rocm" in container["image"])


def test_a_broken_reference_is_found(tmp_path: Path) -> None:
    write(render(asked("grid"), "kubernetes"), tmp_path)
    path = tmp_path / "base" / "scaling.yaml"
    path.write_text(path.read_text().replace("name: grid-bulk", "name: grid-bulky"))
    (tmp_path / "base" / "monitoring.yaml").unlink()
    overlay = tmp_path / "overlays" / "east" / "kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("name: grid-interactive", "name: grid-interactiv"))
    assert sorted(str(problem) for problem in check(tmp_path)) == [
        "ScaledObject grid-bulky: names Deployment grid-bulky, which is not there",
        "base/kustomization.yaml: resources[3]: monitoring.yaml does not exist",
        "overlays/east/kustomization.yaml: patches[0]: changes Deployment grid-interactiv, which is not there",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [("kind: Deployment", "Deployment without metadata.name"), ("- 1", "is not an object"),
     ("{kind: [1], metadata: {name: a}}", "is no kind"), ("{kind: Job, metadata: {name: [a]}}", "without metadata.name"),
     ("{kind: Job, metadata: {name: a}}\n---\n{kind: Job, metadata: {name: a}}", "Job a: is there 2 times"),
     ("{kind: ConfigMap, metadata: {name: a}, data: {pilothouse.yaml: 'policy: best'}}", "unknown policy 'best'"),
     ("{kind: Job, metadata: {name: a}, spec: {image: 'x:latest'}}", "Job a: spec.image: x:latest is not pinned"),
     ("{kind: ScaledObject, metadata: {name: a}}", "is not shaped as its kind is"), ("a: [", "is not YAML")],
)  # fmt: skip
def test_whatever_people_write_is_answered(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [own.yaml]")
    try:
        found = check(tmp_path)
    except ConfigError as error:
        found = error.problems
    assert said in " ".join(map(str, found))


@pytest.mark.parametrize(
    ("name", "target", "changes", "said"),
    [
        ("moe_wide", "compose", {}, "compose runs on one"),
        ("moe_wide", "vllm", {"hosts": HOSTS[:2]}, "need 4 machines"),
        ("single", "vllm", {"uri": "pvc://claim"}, "outside Kubernetes"),
        ("single", "kubernetes", {"uri": "s3://bucket"}, "is neither hf://"),
        ("single", "kubernetes", {"uri": "oci://registry.example/qwen:1"}, "is not pinned"),
        ("single", "kubernetes", {"uri": "pvc://claim/../etc"}, "is none of"),
        ("single", "kubernetes", scaled("kubernetes"), "no pool 'bulk'"),
        ("grid", "kserve", scaled("kubernetes"), "does not scale to zero"),
        ("moe_wide", "inferenceservice", {}, "one pod per pipeline stage"),
        ("grid", "inferenceservice", scaled("kubernetes"), "use --target kubernetes or kserve"),
        ("grid", "llm-d", scaled("kubernetes"), "nobody holds requests"),
        ("single", "kserve", {"uri": "/srv/qwen"}, "KServe fetches"),
    ],
)
def test_what_a_target_cannot_do_is_said(name: str, target: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        render(fleet(name, **changes), target)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_bash(name: str) -> None:
    for file in render(asked(name), "vllm"):
        if file.path.endswith(".sh"):
            done = subprocess.run(["bash", "-n"], input=file.text, text=True, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
