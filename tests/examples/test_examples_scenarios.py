"""Every scenario that a reader may copy loads, and simulates."""

from pathlib import Path

import msgspec
import pytest

from pilothouse.build import simulate
from pilothouse.config.scenario_load import load_scenario
from pilothouse.workload.requests import total_requests

SCENARIOS = sorted((Path(__file__).resolve().parents[2] / "examples" / "scenarios").glob("*.yaml"))
QUICK = 60  # requests that are simulated here


def test_there_are_some() -> None:
    assert {"guide", "crash", "slow-node", "one-gateway", "four-gateways", "structured-output"} <= {
        path.stem for path in SCENARIOS
    }


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_it_loads_and_a_small_part_of_its_load_runs(path: Path) -> None:
    ready = load_scenario(path.read_text(), path.name, path.parent)
    load = min(ready.scenario.loads)
    whole = total_requests(ready.recipe.make(1, load).stages)
    run = simulate(ready.scenario, ready.recipe, ready.scenario.policies[0], load * min(1, QUICK / whole), 1)
    assert run.label == "Simulated" and run.stages
    for stage in run.stages:
        assert stage.summary.requests > stage.summary.refused
        assert stage.summary.goodput <= stage.summary.achieved_rate


def test_one_and_four_gateways_differ_in_gateways_alone() -> None:
    one, four = (
        load_scenario(path.read_text(), path.name, path.parent)
        for name in ("one-gateway", "four-gateways")
        for path in SCENARIOS
        if path.stem == name
    )
    alike = msgspec.structs.replace(four.scenario, name=one.scenario.name, gateways=one.scenario.gateways)
    assert four.scenario.gateways == 4 and alike == one.scenario and four.recipe == one.recipe
