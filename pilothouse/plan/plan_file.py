"""A plan as a YAML file, there and back."""

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pilothouse.config.convert import convert
from pilothouse.config.load import read_documents, read_text
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import Plan

VERSION = 1


def read_plan(path: Path) -> Plan:
    """Raises ConfigError with every problem found."""
    plans = read_plans(path)
    if len(plans) > 1:
        raise ConfigError([Problem(str(path), f"holds {len(plans)} plans, and one is wanted")])
    return plans[0]


def read_plans(path: Path) -> list[Plan]:
    """Of a file with a YAML document for each. Raises ConfigError with every problem found in the first that has one."""
    documents = [data for data in read_documents(read_text(path), str(path)) if data is not None]
    if not documents:
        raise ConfigError([Problem(str(path), "is empty")])
    return [_plan(data, path) for data in documents]


def holds_plans(path: Path) -> bool:
    """Whether it is meant to be one, right or wrong."""
    try:
        documents = read_documents(read_text(path), str(path))
    except ConfigError:
        return False
    return all(isinstance(data, dict) and {"model", "pools"} <= data.keys() for data in documents)


def _plan(data: Any, path: Path) -> Plan:
    if isinstance(data, dict) and "pools" not in data:
        what = f"is no plan, for it has no pools: `pilothouse plan {path} -o plan.yaml` makes one of what is asked for"
        raise ConfigError([Problem(str(path), what)])
    problems: list[Problem] = []
    plan = convert(Plan, data, "", problems)
    if plan is not None and plan.version != VERSION:
        problems.append(Problem("version", f"is {plan.version}, and {VERSION} is what there is"))
    if plan is None or problems:
        raise ConfigError([Problem(f"{path}: {problem.where}", problem.what) for problem in problems])
    return plan


def plan_text(plan: Plan) -> str:
    return yaml.safe_dump(_said(plan), sort_keys=False, width=120)


def moved(workload: Any, base: Path, to: Path) -> Any:
    """A workload whose paths are relative to `base`, with the same files as seen from `to`."""
    if isinstance(workload, str):
        return os.path.relpath(base / workload, to)
    if not isinstance(workload, dict):
        return workload
    made = dict(workload)
    if isinstance(made.get("file"), str):
        made["file"] = os.path.relpath(base / made["file"], to)
    if isinstance(made.get("tenants"), list):
        tenants = [dict(tenant) for tenant in made["tenants"]]
        made["tenants"] = [tenant | {"workload": moved(tenant["workload"], base, to)} for tenant in tenants]
    return made


def _said(value: Any) -> Any:
    """Structs without their empty fields, which are empty by default."""
    if isinstance(value, msgspec.Struct):
        names = [name for name in value.__struct_fields__ if getattr(value, name) not in (None, "", [], {})]
        return {name: _said(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {name: _said(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_said(inner) for inner in value]
    return msgspec.to_builtins(value)
