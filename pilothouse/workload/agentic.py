"""Tool loops: an agent asks, a tool runs, the result is added, and so on; now and then it branches into sub-agents.

All conversations of one program begin with the same tools and system prompt. A sub-agent begins with all that its parent
knows, so they share that prefix and then part; the parent goes on after the sub-agent that has most to generate, which
stands for "after all of them". Defaults for lengths are near the means of the coding sessions of kv-cache-tester (tools
and system prompt about 15k tokens, 30 requests, 1,770 tokens added per step, 440 answered, half of the pauses below 10 s);
how often agents branch is no measurement.
"""

from dataclasses import dataclass, field

import msgspec

from pilothouse.core.random_stream import Random, stream
from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.arrivals import AnyArrivals, Arrivals
from pilothouse.workload.chat import squeezed
from pilothouse.workload.lengths import Length, Lognormal, Pause, Pauses, checked, draw, draw_us, within
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase, stages
from pilothouse.workload.texts import Context, Turn, keys, text
from pilothouse.workload.written import Traffic


class Agentic(Traffic, frozen=True, tag="agentic", tag_field="kind"):
    """Stages count tasks: `rate` new ones per second, or `users` who give one after the other."""

    phases: list[Phase] = msgspec.field(name="stages")
    arrivals: AnyArrivals = Arrivals.POISSON
    programs: int = 3  # distinct sets of tools and system prompt, drawn uniformly
    system_tokens: int = 15_000  # tools and system prompt
    task_tokens: Length = Lognormal(2_000, 30_000, 15_000)
    steps: Length = (5, 55)
    result_tokens: Length = Lognormal(1_770, 40_000, 15_000)  # what a tool adds
    output_tokens: Length = Lognormal(440, 8_000, 3_000)
    tool: Pause = Pauses(Micros(10 * SECOND), Micros(110 * SECOND), Micros(300 * SECOND))  # how long a tool runs
    between: Pause = Micros(30 * SECOND)  # a user's pause before the next task
    branches: float = 0.05  # chance that a step starts sub-agents
    sub_agents: Length = (1, 3)
    sub_steps: Length = (2, 8)
    context_max: int = 128_000  # a task ends before its context is longer
    model: str = "m"
    block_size: int = 16

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("stages must not be empty")
        if self.programs < 1 or self.block_size < 1 or not 0 <= self.branches <= 1:
            raise ValueError("programs and block_size must be at least 1, branches 0 to 1")
        within(programs=self.programs, system_tokens=self.system_tokens, context_max=self.context_max)
        if self.context_max < self.system_tokens + 2:
            raise ValueError("context_max must be above system_tokens: a prompt and an answer must fit")
        lengths = {"task_tokens": self.task_tokens, "result_tokens": self.result_tokens, "steps": self.steps}
        checked(**lengths, output_tokens=self.output_tokens, sub_agents=self.sub_agents, sub_steps=self.sub_steps)


def generate(spec: Agentic, seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies rates and users. The same seed gives the same bytes."""
    whole = spec.system_tokens // spec.block_size
    programs = [keys(text(f"{seed}/program/{i}"), 0, whole) for i in range(spec.programs)]

    def task(number: int) -> list[Turn]:
        luck = stream(seed, f"agentic/{number}")
        name = f"{seed}/task/{number}"
        head = programs[luck.randrange(len(programs))]
        return _Task(spec, luck, name, Context(spec.block_size, text(name), head, spec.system_tokens)).run()

    return Workload(spec.model, spec.block_size, stages(spec.phases, spec.arrivals, seed, load, task, spec.between))


@dataclass(slots=True)
class _Task:
    """One task while it is written down."""

    spec: Agentic
    luck: Random
    name: str
    main: Context
    turns: list[Turn] = field(default_factory=list)
    agents: int = 0

    def run(self) -> list[Turn]:
        follows, added = -1, draw(self.spec.task_tokens, self.luck)
        for _ in range(draw(self.spec.steps, self.luck)):
            if not self._ask(self.main, added, follows):
                break
            follows = len(self.turns) - 1
            if self.luck.random() < self.spec.branches:
                follows = self._branch(follows)
            added = draw(self.spec.result_tokens, self.luck)
        return self.turns

    def _ask(self, context: Context, added: int, follows: int) -> bool:
        """One request, unless the context has no room for it."""
        output = draw(self.spec.output_tokens, self.luck)
        pause_us = draw_us(self.spec.tool, self.luck) if follows >= 0 else 0
        if context.tokens + added + output > self.spec.context_max:
            if self.turns:
                return False
            added, output = squeezed(added, output, self.spec.context_max - context.tokens)
        self.turns.append(context.turn(added, output, pause_us, follows))
        return True

    def _branch(self, parent: int) -> int:
        """Sub-agents side by side; returns the turn with which the longest of them ends."""
        longest, most = parent, 0
        for _ in range(draw(self.spec.sub_agents, self.luck)):
            self.agents += 1
            context, follows, tokens = self.main.branch(text(f"{self.name}/{self.agents}")), parent, 0
            for _ in range(draw(self.spec.sub_steps, self.luck)):
                if not self._ask(context, draw(self.spec.result_tokens, self.luck), follows):
                    break
                follows = len(self.turns) - 1
                tokens += self.turns[-1].output_tokens
            if tokens > most:
                longest, most = follows, tokens
        return longest
