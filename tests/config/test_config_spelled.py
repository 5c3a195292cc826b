"""A profile written out and read again is the same profile."""

import pytest
import yaml

from pilothouse.config.load import from_data
from pilothouse.config.policy import profile
from pilothouse.config.scenario_load import SIMULATED
from pilothouse.config.spelled import spelled


@pytest.mark.parametrize("name", sorted(SIMULATED))
def test_what_ships_can_be_written_out(name: str) -> None:
    written = yaml.safe_load(yaml.safe_dump(spelled(SIMULATED[name])))
    assert profile(written) == SIMULATED[name]
    assert from_data({"pools": [{"endpoints": [{"url": "http://h:1"}]}], "policy": written}).policy == written
