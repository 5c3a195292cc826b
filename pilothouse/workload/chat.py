"""Conversations of people: each turn brings the whole conversation so far, the answers included, and takes time to write.

The default lengths are round figures near those of public chat traces (ShareGPT: 857 tokens asked, 653 answered on
average); think times are no measurement.
"""

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.arrivals import AnyArrivals, Arrivals
from pilothouse.workload.lengths import Length, Lognormal, Pause, Pauses, checked, draw, draw_us, within
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase, stages
from pilothouse.workload.texts import Context, Turn, keys, text
from pilothouse.workload.written import Traffic


class Chat(Traffic, frozen=True, tag="chat", tag_field="kind"):
    """Stages count conversations: `rate` new ones per second, or `users` who have one after the other."""

    phases: list[Phase] = msgspec.field(name="stages")
    arrivals: AnyArrivals = Arrivals.POISSON
    system_prompts: int = 4  # distinct ones; each conversation begins with one, drawn uniformly
    system_tokens: int = 1000
    turns: Length = (2, 10)
    user_tokens: Length = Lognormal(300, 8000, 3000)  # what a user adds in one turn
    output_tokens: Length = Lognormal(400, 4000, 2000)
    think: Pause = Pauses(Micros(20 * SECOND), Micros(120 * SECOND), Micros(300 * SECOND))
    context_max: int = 32_768  # a conversation ends before it is longer
    model: str = "m"
    block_size: int = 16

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("stages must not be empty")
        if self.system_prompts < 1 or self.block_size < 1:
            raise ValueError("system_prompts and block_size must be at least 1")
        within(system_prompts=self.system_prompts, system_tokens=self.system_tokens, context_max=self.context_max)
        if self.context_max < self.system_tokens + 2:
            raise ValueError("context_max must be above system_tokens: a prompt and an answer must fit")
        checked(turns=self.turns, user_tokens=self.user_tokens, output_tokens=self.output_tokens)


def generate(spec: Chat, seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies rates and users. The same seed gives the same bytes."""
    whole = spec.system_tokens // spec.block_size
    systems = [keys(text(f"{seed}/system/{i}"), 0, whole) for i in range(spec.system_prompts)]

    def conversation(number: int) -> list[Turn]:
        luck = stream(seed, f"chat/{number}")
        head = systems[luck.randrange(len(systems))]
        context = Context(spec.block_size, text(f"{seed}/chat/{number}"), head, spec.system_tokens)
        made: list[Turn] = []
        for i in range(draw(spec.turns, luck)):
            added, output = draw(spec.user_tokens, luck), draw(spec.output_tokens, luck)
            pause_us = draw_us(spec.think, luck) if i else 0
            if context.tokens + added + output > spec.context_max:
                if made:
                    break
                added, output = squeezed(added, output, spec.context_max - context.tokens)
            made.append(context.turn(added, output, pause_us, i - 1))
        return made

    return Workload(
        spec.model, spec.block_size, stages(spec.phases, spec.arrivals, seed, load, conversation, spec.think)
    )


def squeezed(added: int, output: int, room: int) -> tuple[int, int]:
    """A first turn that is too long, made to fit: the answer keeps its length as far as it can."""
    output = min(output, room - 1)
    return min(added, room - output), output
