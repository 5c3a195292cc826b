"""The objectives behind a goodput, in words: a figure without them says nothing."""

from collections.abc import Mapping

from pilothouse.core.units import SECOND
from pilothouse.workload.outcomes import Objectives

NAMES = (("ttft_us", "TTFT"), ("tpot_us", "TPOT"), ("e2e_us", "E2E"))


def goodput_note(objectives: Objectives, tenants: Mapping[str, Objectives]) -> str:
    """One line for a run's notes; reports show it below the figure, and know it by its first word."""
    general = _said(objectives)
    own = [f"{name}: {_said(theirs) or 'all that are served'}" for name, theirs in sorted(tenants.items())]
    if not general and not own:
        return "goodput counts every request that was served: no objectives are set"
    return f"goodput counts requests with {'; '.join([general or 'an answer', *own])}"


def _said(objectives: Objectives) -> str:
    limits = [(name, getattr(objectives, field)) for field, name in NAMES]
    more = f" + {_duration(objectives.ttft_us_per_1k)} per 1,000 prompt tokens" if objectives.ttft_us_per_1k else ""
    return " and ".join(
        f"{name} within {_duration(limit)}{more if name == 'TTFT' else ''}"
        for name, limit in limits
        if limit is not None
    )


def _duration(us: int) -> str:
    return f"{us / SECOND:g} s" if us >= SECOND else f"{us / 1000:g} ms"
