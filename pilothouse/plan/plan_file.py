"""A plan as a YAML file, there and back."""

from pathlib import Path

import msgspec
import yaml

from pilothouse.config.convert import convert
from pilothouse.config.load import read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import Plan

VERSION = 1


def read_plan(path: Path) -> Plan:
    """Raises ConfigError with every problem found."""
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError([Problem(str(path), f"cannot be read: {reason}")]) from None
    problems: list[Problem] = []
    plan = convert(Plan, data, "", problems)
    if plan is not None and plan.version != VERSION:
        problems.append(Problem("version", f"is {plan.version}, and {VERSION} is what there is"))
    if plan is None or problems:
        raise ConfigError([Problem(f"{path}: {problem.where}", problem.what) for problem in problems])
    return plan


def plan_text(plan: Plan) -> str:
    return yaml.safe_dump(msgspec.to_builtins(plan), sort_keys=False, width=120)
