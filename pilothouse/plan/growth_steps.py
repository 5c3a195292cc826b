"""The steps of the growth path: what each changes, how to verify it before and after, and how to roll it back.

`{source}` stands for what was asked about, where the command that is named can be asked about it too.
"""

from enum import StrEnum

from msgspec import Struct


class Step(StrEnum):
    """What to do next."""

    BASELINE = "baseline"
    ROUTING = "routing"
    DISAGGREGATE = "disaggregate"
    SPECULATE = "speculate"
    GRID = "grid"
    NOTHING = "nothing"


class Doing(Struct, frozen=True):
    """One change."""

    change: str
    verify: str
    roll_back: str


DOING = {
    Step.BASELINE: Doing(
        "nothing yet: keep this fleet as it is and go on measuring",
        "ask again when the figures above are reached; a gateway with `journal` in pilothouse.yaml records all that is needed",
        "there is nothing to undo",
    ),
    Step.ROUTING: Doing(
        "routing: `policy: marginal_cost` in pilothouse.yaml, which knows what each engine's cache holds; engines keep their "
        "flags, but for --enable-prefix-caching and KV events, without which holdings are assumed",
        "before: `pilothouse replay JOURNAL --what-if NEW.yaml`, or `pilothouse sim` of the workload with both policies. After: "
        "the same bench on one and on all replicas; the gain per replica and the hit rate must have risen",
        "the policy's old name in pilothouse.yaml, then restart the gateway: engines are not touched, no request is lost that "
        "was not in flight",
    ),
    Step.DISAGGREGATE: Doing(
        "one pool into two: prefill and decode on engines of their own (`role` and `connector` in pools), as many of each as "
        "`pilothouse advise disaggregate` says, and only if it says yes after its trial",
        "before: `pilothouse advise disaggregate {source} --model M --gpu G --objectives ...`. After: the same load; the phase "
        "that missed its objective must meet it, the other must still",
        "`role: both` for all engines, or `decider: never` in the policy: then nothing is split, whatever the roles",
    ),
    Step.SPECULATE: Doing(
        "engines: speculative decoding (--speculative-config) with the method and number of tokens that `pilothouse advise "
        "speculative` names",
        "before: `pilothouse advise speculative {source} --model M --gpu G`. After: TPOT at this load must have fallen, and "
        "accepted / drafted of `pilothouse status` be what the advice rests on",
        "start engines without --speculative-config: answers are the same, only their pace is not",
    ),
    Step.GRID: Doing(
        "topology: one pool for each class of models behind one gateway, each tenant with its own objectives, as in the "
        "blueprint `grid`",
        "before: `pilothouse plan --blueprint grid` with your classes and models. After: each tenant's percentiles by itself; "
        "none may be worse than before",
        "the former pools' configuration: models and engines are the same, only who serves whom changes",
    ),
    Step.NOTHING: Doing(
        "nothing: no figure calls for a change, and one without a reason costs what it costs",
        "ask again when load, models or objectives have changed",
        "there is nothing to undo",
    ),
}
