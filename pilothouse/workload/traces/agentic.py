"""Recorded sessions of coding agents, replayed closed loop: each request follows the end of the one before it by the
time that agent and user took, so a faster or slower fleet does not change what they do.

Block ids (64 tokens) are local to a session, one for a block and all before it. Each time a session is played it gets
keys of its own, so it never meets itself in a cache, but for tools and system prompt: sessions with equally long tools
share those blocks, and with an equally long system prompt also its blocks, as users of one program do.

The answer to a request lies in the next request's prompt if that begins with all of this one's full blocks.

Time between requests is that of the recording less its time in the API, where that was recorded; pauses beyond `pause_max`
(a user who came back the next day) are cut, as the trace's own player does. Nested sub-agents run side by side after the
request before them; their parent goes on after the one that has most to generate.
source   callanjfox/kv-cache-tester (Apache-2.0)
"""

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, BlockKey, Micros
from pilothouse.workload.arrivals import AnyArrivals, Arrivals
from pilothouse.workload.lengths import Pause
from pilothouse.workload.requests import WORD, Workload, mixed
from pilothouse.workload.sessions import Phase, stages
from pilothouse.workload.texts import Turn, held, keys, text
from pilothouse.workload.written import Traffic


class AgenticTrace(Traffic, frozen=True, tag="agentic_trace", tag_field="kind"):
    """Stages count sessions: each is drawn from the recorded ones, all of them once before any comes again."""

    file: str  # directory of *.json, or one such file; beside the workload file
    phases: list[Phase] = msgspec.field(name="stages")
    arrivals: AnyArrivals = Arrivals.POISSON
    between: Pause = Micros(0)  # a user's pause before the next session
    time_scale: float = 1.0  # of all pauses within sessions
    pause_max_us: Micros = Micros(60 * SECOND)
    context_max: int | None = None  # a session ends before its context is longer
    share_system: bool = True  # tools and system prompts are shared between sessions
    model: str = "m"

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("stages must not be empty")
        if self.time_scale < 0 or (self.context_max is not None and self.context_max < 1):
            raise ValueError("time_scale must not be below 0, context_max must be at least 1")


class Step(msgspec.Struct, frozen=True):
    """One recorded request."""

    ids: list[int]  # of its full blocks
    prompt_tokens: int
    output_tokens: int
    pause_us: Micros  # after the end of the step it follows
    follows: int  # place in the conversation; -1 = none
    output_ids: list[int] = []


class Conversation(msgspec.Struct, frozen=True):
    """One recorded session."""

    block_size: int
    tool_tokens: int
    system_tokens: int
    steps: list[Step]


class _Entry(msgspec.Struct, frozen=True):
    """A request, or sub-agents: an entry with requests of its own."""

    t: float = 0.0  # seconds from the beginning of the session
    input_tokens: int = msgspec.field(default=0, name="in")
    output_tokens: int = msgspec.field(default=0, name="out")
    hash_ids: list[int] = []
    api_time: float | None = None  # seconds
    requests: list["_Entry"] = []


class _File(msgspec.Struct, frozen=True):
    block_size: int
    requests: list[_Entry]
    tool_tokens: int = 0
    system_tokens: int = 0


def parse(files: list[bytes]) -> list[Conversation]:
    """Raises msgspec.MsgspecError or ValueError where it is something else."""
    made = []
    for data in files:
        session = msgspec.json.decode(data, type=_File)
        if session.block_size < 1:
            raise ValueError("block_size must be at least 1")
        steps: list[Step] = []
        _walk(session.requests, session.block_size, -1, steps)
        if steps:
            made.append(Conversation(session.block_size, session.tool_tokens, session.system_tokens, steps))
    if len({conversation.block_size for conversation in made}) != 1:
        raise ValueError("sessions must have one block_size, and there must be one with requests")
    return made


def _walk(entries: list[_Entry], size: int, follows: int, steps: list[Step]) -> int:
    """Adds the steps of one agent, which begins after the step at `follows`; returns the place of its last one."""
    before: _Entry | None = None
    own = -1  # place of this agent's latest step
    ends: list[int] = []  # of sub-agents that the next request waits for
    for entry in entries:
        if entry.requests:
            ends.append(_walk(entry.requests, size, follows, steps))
            continue
        follows, ends = _longest(steps, ends, follows), []
        pause = 0.0 if before is None else max(0.0, entry.t - before.t - (before.api_time or 0.0))
        ids = entry.hash_ids[: entry.input_tokens // size]
        pause_us = Micros(round(pause * SECOND))
        steps.append(Step(ids, max(entry.input_tokens, 1), max(entry.output_tokens, 1), pause_us, follows))
        if own >= 0:
            _answer(steps, own, ids, size)
        before, own = entry, len(steps) - 1
        follows = own
    return _longest(steps, ends, follows)


def _longest(steps: list[Step], ends: list[int], begin: int) -> int:
    """Which of these sub-agents, all begun after `begin`, generates most; `begin` if there are none."""
    longest, most = begin, -1
    for end in ends:
        tokens, at = 0, end
        while at > begin:
            tokens, at = tokens + steps[at].output_tokens, steps[at].follows
        if tokens > most:
            longest, most = end, tokens
    return longest


def _answer(steps: list[Step], place: int, ids: list[int], size: int) -> None:
    """What the step at `place` answered, if the prompt with these ids has it."""
    step = steps[place]
    if ids[: len(step.ids)] == step.ids:
        end = held(step.prompt_tokens, step.output_tokens, size)
        steps[place] = msgspec.structs.replace(step, output_ids=ids[len(step.ids) : end])


def generate(spec: AgenticTrace, conversations: list[Conversation], seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies rates and users; pauses within sessions stay as they were."""
    size = conversations[0].block_size
    conversations = playable(spec, conversations)

    def session(number: int) -> list[Turn]:
        order = list(range(len(conversations)))
        stream(seed, f"agentic_trace/{number // len(order)}").shuffle(order)
        return _played(spec, conversations[order[number % len(order)]], text(f"{seed}/session/{number}"))

    return Workload(spec.model, size, stages(spec.phases, spec.arrivals, seed, load, session, spec.between))


def playable(spec: AgenticTrace, conversations: list[Conversation]) -> list[Conversation]:
    """Those of which at least the first request is within `context_max`."""
    most = spec.context_max
    firsts = ((c, c.steps[0].prompt_tokens + c.steps[0].output_tokens) for c in conversations)
    return [conversation for conversation, tokens in firsts if most is None or tokens <= most]


def _played(spec: AgenticTrace, conversation: Conversation, number: int) -> list[Turn]:
    names = _shared(conversation) if spec.share_system else {}
    turns: list[Turn] = []
    for step in conversation.steps:
        if spec.context_max and step.prompt_tokens + step.output_tokens > spec.context_max:
            break
        for id_ in step.ids + step.output_ids:
            if id_ not in names:
                names[id_] = BlockKey(mixed(number + id_ & WORD))
        blocks, answer = [names[id_] for id_ in step.ids], [names[id_] for id_ in step.output_ids]
        pause_us = round(min(step.pause_us, spec.pause_max_us) * spec.time_scale)
        turns.append(Turn(blocks, step.prompt_tokens, step.output_tokens, answer, pause_us, step.follows))
    return turns


def _shared(conversation: Conversation) -> dict[int, BlockKey]:
    """Keys of the blocks of tools and system prompt, with which a session begins."""
    size, tools, system = conversation.block_size, conversation.tool_tokens, conversation.system_tokens
    first = conversation.steps[0].ids[: (tools + system) // size]
    whole = tools // size
    named = keys(text(f"tools/{tools}"), 0, whole) + keys(
        text(f"tools/{tools}/{system}"), whole, (tools + system) // size
    )
    return dict(zip(first, named, strict=False))
