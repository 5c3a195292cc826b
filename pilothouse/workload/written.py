"""How specifications look when people write them: a duration's field has no unit in its name, the value has one."""

from typing import Annotated

import msgspec

# Far beyond what anybody runs: a slip of the pen shall be a message, not a machine without memory.
REQUESTS_MAX = 10_000_000  # of one stage
TOKENS_MAX = 10_000_000  # of one prompt or answer
PARTS_MAX = 10_000  # of a day


def as_written(name: str) -> str:
    """`pause_us` in Python is `pause: 30s` in a file; `seconds` is `duration: 50s`."""
    return "duration" if name == "seconds" else name.removesuffix("_us")


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=as_written):
    """Base of every specification in a workload file."""


class Traffic(Written, frozen=True, kw_only=True):
    """Base of what sends requests."""

    # How the rate goes over a day, or any time that comes again, in equal parts (24: hours), as a share of the stages' rate,
    # which is that of busy times. Plans are costed by it; simulations and benchmarks play the stages. Empty: always busy.
    day: Annotated[list[Annotated[float, msgspec.Meta(ge=0, le=100)]], msgspec.Meta(max_length=PARTS_MAX)] = []
    constrained: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # share whose answers a grammar or tools bind
