"""A workload before its seed: what a workload file says, together with all it refers to. Ready to be sent to a process."""

from typing import assert_never

import msgspec

from pilothouse.workload import agentic, batch, chat, mix, open_loop, rag, shared_prefix
from pilothouse.workload.agentic import Agentic
from pilothouse.workload.batch import Batch
from pilothouse.workload.chat import Chat
from pilothouse.workload.mix import Mix, tenant_seed
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.rag import Rag
from pilothouse.workload.requests import Workload, constrained
from pilothouse.workload.shared_prefix import SharedPrefix
from pilothouse.workload.traces import agentic as agentic_trace
from pilothouse.workload.traces import azure, mooncake, sharegpt
from pilothouse.workload.traces.agentic import AgenticTrace, Conversation
from pilothouse.workload.traces.azure import Azure
from pilothouse.workload.traces.mooncake import Mooncake
from pilothouse.workload.traces.replay import Recorded
from pilothouse.workload.traces.sharegpt import ShareGpt

AnyTrace = Mooncake | Azure | ShareGpt | AgenticTrace
AnySpec = SharedPrefix | OpenLoop | Chat | Rag | Agentic | Batch | Mix | AnyTrace


class Recipe(msgspec.Struct, frozen=True):
    """`make` gives the requests. Everything it needs is in here; no file is read any more."""

    spec: AnySpec
    rows: list[Recorded] = []  # of a trace
    conversations: list[Conversation] = []  # of an agentic trace
    parts: list["Recipe"] = []  # of a mix: its tenants' workloads

    def make(self, seed: int, load: float = 1.0) -> Workload:
        """The same seed and load give the same bytes.

        `load` multiplies what is offered: the rate where requests come by the clock, the speed of a trace, the number
        of users (rounded, at least one) where each waits for its answers, the number of requests of a batch.
        """
        if load <= 0:
            raise ValueError("load must be above 0")
        made = self._made(seed, load)
        if isinstance(self.spec, Mix):  # each part has its own
            return made
        made = msgspec.structs.replace(made, day=self.spec.day) if self.spec.day else made
        return constrained(made, self.spec.constrained, seed) if self.spec.constrained else made

    def _made(self, seed: int, load: float) -> Workload:
        match self.spec:
            case SharedPrefix() as spec:
                return shared_prefix.generate(spec, seed, load)
            case OpenLoop() as spec:
                return open_loop.generate(spec, seed, load)
            case Chat() as spec:
                return chat.generate(spec, seed, load)
            case Rag() as spec:
                return rag.generate(spec, seed, load)
            case Agentic() as spec:
                return agentic.generate(spec, seed, load)
            case Batch() as spec:
                return batch.generate(spec, seed, load)
            case Mix() as spec:
                tenants = zip(spec.tenants, self.parts, strict=True)
                return mix.merge(spec, [part.make(tenant_seed(seed, t.name), load * t.load) for t, part in tenants])
            case Mooncake() as spec:
                return mooncake.generate(spec, self.rows, seed, load)
            case Azure() as spec:
                return azure.generate(spec, self.rows, seed, load)
            case ShareGpt() as spec:
                return sharegpt.generate(spec, self.rows, seed, load)
            case AgenticTrace() as spec:
                return agentic_trace.generate(spec, self.conversations, seed, load)
        assert_never(self.spec)

    @property
    def model(self) -> str:
        return self.parts[0].model if isinstance(self.spec, Mix) else self.spec.model

    @property
    def block_size(self) -> int:
        """Tokens of one block, by whose keys the prompts are known."""
        match self.spec:
            case Mix():
                return self.parts[0].block_size
            case Mooncake():
                return mooncake.BLOCK
            case AgenticTrace():
                return self.conversations[0].block_size
            case spec:
                return spec.block_size
