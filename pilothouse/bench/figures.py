"""A stage's result as tables and reports show it, with all that a reader must know about it."""

from pilothouse.bench.load import StageResult
from pilothouse.workload.outcomes import Histogram, Objectives, StageRun, summarise
from pilothouse.workload.timeline import timeline

MERGED_SHARE = 0.02  # of tokens that came together with others, from which on it is said
LENGTH_SHARE = 0.02  # by which prompts may miss their planned length before it is said


def stage_run(result: StageResult, label: str, objectives: Objectives) -> StageRun:
    """Figures over all requests of the stage, over time, and by tenant where there are several."""
    stage, outcomes, start_us = result.stage, result.outcomes, result.start_us
    every = Histogram()
    for histogram in result.gaps.values():
        every.merge(histogram)
    tenants = {}
    for tenant in result.gaps if len(result.gaps) > 1 else ():
        own = [outcome for outcome in outcomes if outcome.tenant == tenant]
        rate = stage.rate * len(own) / len(outcomes)
        tenants[tenant] = summarise(own, start_us, rate, label, objectives, result.gaps[tenant])
    summary = summarise(outcomes, start_us, stage.rate, label, objectives, every)
    return StageRun(stage.name, summary, timeline(outcomes, start_us), [], tenants, notes(result))


def notes(result: StageResult) -> list[str]:
    """The client's own figures first, then what is not as planned."""
    found = [result.client.note()]
    served = [outcome for outcome in result.outcomes if not outcome.refused]
    if result.unsent:
        found.append(f"{result.unsent} planned requests were never sent")
    if result.counted_chunks:
        found.append(f"tokens of {result.counted_chunks} answers are counted by chunks: the server did not count them")
    if result.unlike_tokens:
        found.append(f"{result.unlike_tokens} answers are shorter or longer than planned")
    tokens = sum(outcome.output_tokens for outcome in served)
    if result.merged_tokens > MERGED_SHARE * tokens:
        share = result.merged_tokens / tokens
        found.append(f"{share:.0%} of the tokens came with others in one chunk, or without text: ITL is between chunks")
    if result.written_anew:
        found.append(f"{result.written_anew} turns were written anew: what they go on from was not there")
    planned = {request.request: request.prompt_tokens for request in result.stage.requests}
    wanted = sum(planned[outcome.request] for outcome in served)
    sent = sum(outcome.prompt_tokens for outcome in served)
    if abs(sent - wanted) > LENGTH_SHARE * wanted:
        found.append(f"prompts are {sent / wanted - 1:+.1%} off their planned length, as the server counts")
    if served and not result.cache_told:
        found.append("hit rate unknown: the server does not say how many prompt tokens were cached")
    return found
