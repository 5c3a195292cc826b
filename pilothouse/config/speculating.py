"""Speculative decoding of a simulated pool: what a scenario says of it, completed with what was published."""

from typing import Annotated

from msgspec import Meta

from pilothouse.config.schema import Settings
from pilothouse.core.errors import Problem
from pilothouse.perf.acceptance import PUBLISHED, Kind, draft_model_for, published
from pilothouse.perf.catalog import Gpu, Model, Precision, model_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import GIB
from pilothouse.perf.speculation import (
    Method,
    Speculation,
    draft_pass,
    memory_bytes,
    speculative,
)
from pilothouse.perf.step_time import StepTime


class Speculating(Settings, frozen=True, kw_only=True):
    """How engines of a pool draft tokens, and how many of these are accepted."""

    method: Annotated[str, Meta(pattern=f"^({'|'.join(Method)})$", description=f"who drafts: {', '.join(Method)}")]
    draft_tokens: Annotated[int, Meta(ge=1, le=32, description="drafted per sequence and step")] = 3
    work: Annotated[
        str, Meta(pattern=f"^({'|'.join(Kind)})$", description=f"decides what is not given: {', '.join(Kind)}")
    ] = Kind.CHAT.value
    acceptance: Annotated[
        float | None, Meta(ge=0, le=1, description="of a drafted token, if those before it were; default: as published")
    ] = None
    constrained_acceptance: Annotated[
        float | None,
        Meta(ge=0, le=1, description="the same where a grammar binds the answer; default: half, or 0 of lookups"),
    ] = None
    drafted: Annotated[
        float | None, Meta(ge=0, le=1, description="share of steps with a draft; default: 1, of lookups as published")
    ] = None
    draft_model: Annotated[
        str | None, Meta(description="of the method draft_model; default: a small one of the family, if there is any")
    ] = None


def speculation_of(said: Speculating) -> Speculation:
    """What was not said is Estimated."""
    method = Method(said.method)
    usual = published(method, Kind(said.work), said.draft_tokens, said.acceptance)
    return Speculation(
        method,
        said.draft_tokens,
        usual.acceptance,
        usual.constrained if said.constrained_acceptance is None else said.constrained_acceptance,
        usual.drafted if said.drafted is None else said.drafted,
    )


def draft_model_of(said: Speculating, model: Model) -> Model | None:
    """None where there is none, or none is needed. Raises KeyError for an unknown name."""
    if said.method != Method.DRAFT_MODEL:
        return None
    return model_named(said.draft_model) if said.draft_model is not None else draft_model_for(model)


def timed(said: Speculating, times: StepTime, model: Model, gpu: Gpu, tp: int, precision: Precision) -> StepTime:
    """Step times of the target, with drafting and verification."""
    speculation, smaller = speculation_of(said), draft_model_of(said, model)
    if smaller is not None:
        return speculative(times, step_time(smaller, gpu, tp, precision), speculation)
    return speculative(times, draft_pass(speculation.method, model, gpu, tp, said.draft_tokens), speculation)


def drafting_bytes(said: Speculating, model: Model, tp: int) -> tuple[float, float]:
    """Taken from each GPU: (once, per token of context)."""
    return memory_bytes(Method(said.method), model, tp, said.draft_tokens, draft_model_of(said, model))


def drafting_gib(said: Speculating | None, model: Model, tp: int) -> float:
    """Taken from each GPU at least; 0 for what cannot be looked up, which is told elsewhere."""
    try:
        return 0.0 if said is None else drafting_bytes(said, model, tp)[0] / GIB
    except KeyError:
        return 0.0


def note(said: Speculating) -> str:
    """For those who read figures."""
    made, given = speculation_of(said), said.acceptance is not None
    origin = "given" if given else f"Estimated: {PUBLISHED[made.method].source}"
    return (
        f"speculation {made.method} of {made.draft_tokens} tokens, acceptance {made.acceptance:.2f} ({origin}), "
        f"{made.constrained:.2f} under a grammar: {made.tokens():.2f} and {made.tokens(constrained=True):.2f} tokens per step"
    )


def problems_of(said: Speculating, model: Model, sequences: int, batched_tokens: int, where: str) -> list[Problem]:
    found, each = [], 1 + said.draft_tokens
    if said.draft_model is not None and said.method != Method.DRAFT_MODEL:
        found.append(Problem(f"{where}.draft_model", f"is for the method {Method.DRAFT_MODEL}, not for {said.method}"))
    try:
        if said.method == Method.DRAFT_MODEL and draft_model_of(said, model) is None:
            what = f"is needed: the catalogue has no small model with the vocabulary of {model.name}"
            found.append(Problem(f"{where}.draft_model", what))
    except KeyError as error:
        found.append(Problem(f"{where}.draft_model", str(error.args[0])))
    if batched_tokens < sequences * each:
        what = f"needs `batched_tokens` of at least `sequences` x {each}, {sequences * each}: each decode takes {each}"
        found.append(Problem(f"{where}.draft_tokens", f"{what}; lower `sequences`, or draft less"))
    return found
