"""Blueprint to plan to manifests, by the commands that people use: every target of every plan is valid, its flags are vLLM's own.

That the simulation keeps what each plan promises is in `tests/plan/test_plan_blueprints.py`.
"""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_plans import FILLED, HOSTS
from test_manifests_schemas import TOOL, tool
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.plan.blueprint import NAMES, load
from pilothouse.plan.manifests.targets import TARGETS
from pilothouse.plan.plan_file import read_plan

PLANS = [(name, plan.name) for name in NAMES for plan in load(name).plans]
ROLES = ("engine", "gateway", "picker", "sidecar")
runner = CliRunner()


def run(*words: str | Path) -> str:
    done = runner.invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them, as `plan -o` writes them."""
    folder = tmp_path_factory.mktemp("plans")
    for name in NAMES:  # what sums say of them does not matter here
        runner.invoke(app, ["plan", "--blueprint", name, "--no-simulate", "-o", str(folder)])
    assert sorted(path.stem for path in folder.iterdir()) == sorted(plan for _, plan in PLANS)
    return folder


def manifests(plan: Path, target: str, out: Path) -> list[Path]:
    images = [f"--image={role}={getattr(FILLED, role)}" for role in ROLES]
    hosts = [f"--host={host}" for host in HOSTS[: len({pool.gpu for pool in read_plan(plan).pools})]]
    run("manifests", plan, "--target", target, "-o", out, *images, *(hosts if target == "vllm" else []))
    return [path for path in out.rglob("*") if path.is_file()]


def test_unlike_gpus_are_not_on_one_machine(plans: Path) -> None:
    done = runner.invoke(app, ["manifests", str(plans / "hybrid.yaml"), "--target", "compose"])
    assert done.exit_code == 2 and "are more than one machine" in done.output


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("blueprint", "name"), PLANS)
def test_every_target_of_every_blueprint_is_valid(
    blueprint: str, name: str, target: str, plans: Path, tmp_path: Path
) -> None:
    if (name, target) == ("hybrid", "compose"):
        return  # see above
    files = manifests(plans / f"{name}.yaml", target, tmp_path / "out")
    if target != "vllm":  # that is a script
        run("manifests", tmp_path / "out")
    if target in ("vllm", "compose") or not TOOL.exists():
        return
    module, catalogue = tool()
    documents = [part for path in files if path.suffix == ".yaml" for part in yaml.safe_load_all(path.read_text())]
    verdicts = [module.check(catalogue, part) for part in documents if isinstance(part, dict) and "kind" in part]
    assert verdicts and not [lines for verdict, _, lines in verdicts if verdict == "FAIL"]


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("blueprint", "name"), PLANS)
def test_vllm_understands_every_command_line(blueprint: str, name: str, plans: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM for its argument parser")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = make_arg_parser(FlexibleArgumentParser(add_help=False, exit_on_error=False))
    scripts = [path for path in manifests(plans / f"{name}.yaml", "vllm", tmp_path) if path.suffix == ".sh"]
    lines = [line for path in scripts for line in path.read_text().splitlines() if "vllm serve " in line]
    plan = next(plan for plan in load(blueprint).plans if plan.name == name)
    assert len(lines) == sum(pool.replicas for pool in plan.pools)
    for line in lines:
        words = shlex.split(line.rstrip(" &").partition("vllm serve ")[2])
        parsed: Namespace = parser.parse_args(words)
        validate_parsed_serve_args(parsed)
        assert parsed.tensor_parallel_size == plan.pools[0].layout.tp
