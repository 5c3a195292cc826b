"""What is known of a fleet that the growth path looks at, wherever it comes from (`observed.py`)."""

from msgspec import Struct


class Scaling(Struct, frozen=True):
    """What replicas gave at their limit: output tokens per second."""

    one: float
    many: float
    replicas: int
    saturated: bool  # in both, less was served than offered

    @property
    def gain(self) -> float:
        return self.many / self.one if self.one else 0.0


class Phase(Struct, frozen=True):
    """The 90th percentile of a time, and what it should be. Seconds."""

    p90_s: float
    limit_s: float | None
    within_s: tuple[float, float] | None = None  # where it lies, if no more is known: a histogram's bucket

    @property
    def strain(self) -> float | None:
        """1 = just as asked for; None = nothing was asked for, or it is not known on which side of that it lies."""
        if self.limit_s is None or (self.within_s and self.within_s[0] < self.limit_s < self.within_s[1]):
            return None
        return self.p90_s / self.limit_s


class Concurrency(Struct, frozen=True):
    """Requests that run at a time on one engine."""

    mean: float
    p90: float | None  # both over samples of engines that are not idle; None = only the mean of all time is known


class Split(Struct, frozen=True):
    """What `plan/disaggregate.py` estimates for this load on this hardware."""

    pays: bool
    verdict: str


class Observed(Struct, frozen=True, kw_only=True):
    """What is known of a fleet. None = the source does not say."""

    source: str
    label: str  # Measured, Emulated, Simulated
    is_service: bool  # it shows a fleet in service, which a benchmark does not
    seconds: float
    requests: int  # served
    failed: int = 0  # not served, those that their clients gave up not counted
    overload: str = ""  # what shows that more was asked than can be served; "" = nothing does
    asked: str = "SOURCE"  # what further advice can be asked about: a journal or a gateway
    engines: int | None = None
    policy: str | None = None  # of routing; "" = one of the user's own
    hit_ratio: float | None = None  # of prompt tokens
    scaling: Scaling | None = None
    ttft: Phase | None = None
    tpot: Phase | None = None
    is_split: bool | None = None
    split: Split | None = None
    concurrency: Concurrency | None = None
    speculates: bool | None = None
    models: list[str] | None = None  # one name for each class of engines
    tenants: int | None = None
    notes: list[str] = []
