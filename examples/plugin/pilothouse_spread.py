"""A scorer in a distribution of its own: importing this module registers it."""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Scorer, scorers


@scorers.register("knee")
class Knee(Scorer, frozen=True):
    """1 up to `requests` of our requests on an endpoint, then falling: half of it at twice as many.

    For engines whose time per token stays flat up to a batch size. Signal: the in-flight ledger, always current.
    """

    requests: int = 32  # in flight, up to which one endpoint is as good as another

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ValueError("requests must be at least 1")

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return [min(1.0, self.requests / (1 + e.in_flight)) for e in known.endpoints]
