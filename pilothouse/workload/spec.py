"""A workload before its seed: what a workload file says, together with all it refers to. Ready to be sent to a process."""

import msgspec

from pilothouse.workload import open_loop, shared_prefix
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload
from pilothouse.workload.shared_prefix import SharedPrefix

AnySpec = SharedPrefix | OpenLoop


class Recipe(msgspec.Struct, frozen=True):
    """`make` gives the requests. Everything it needs is in here; no file is read any more."""

    spec: AnySpec

    def make(self, seed: int, load: float = 1.0) -> Workload:
        """The same seed and load give the same bytes.

        `load` multiplies what is offered: the rate where requests come by the clock, the speed of a trace, the number
        of users (rounded, at least one) where each waits for its answers.
        """
        if load <= 0:
            raise ValueError("load must be above 0")
        match self.spec:
            case SharedPrefix():
                return shared_prefix.generate(self.spec, seed, load)
            case OpenLoop():
                return open_loop.generate(self.spec, seed, load)
