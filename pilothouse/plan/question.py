"""What is to be planned: a model, GPUs of one or more kinds, a workload, objectives, and what is best."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from pilothouse.perf.catalog import Gpu, Model, Precision
from pilothouse.plan.asks import Asks
from pilothouse.plan.buying import Buying
from pilothouse.plan.document import Objective
from pilothouse.plan.prices import Price, Prices
from pilothouse.plan.promise import Terms, by_class
from pilothouse.plan.simulated import Hardware


class Goal(StrEnum):
    """What is best."""

    MIN_COST = "min-cost"
    MAX_GOODPUT = "max-goodput"
    MIN_GPUS = "min-gpus"


class Stock(Struct, frozen=True, kw_only=True):
    """GPUs of one kind that there are."""

    gpu: Gpu
    count: int
    said: str = ""  # how others find it: a file; "" = by its name
    price: Price | None = None  # of one, at the term of what runs all day; None = unknown

    @property
    def name(self) -> str:
        return self.said or self.gpu.name


class Question(Struct, frozen=True, kw_only=True):
    """What is to be planned."""

    name: str
    model: Model
    model_said: str = ""  # how others find it: a directory, a file; "" = by its name
    stocks: list[Stock]  # at least one
    asks: Asks
    objective: Objective
    classes: dict[str, Objective] = {}  # of those that have one of their own
    workload: Any  # as a plan has it
    rate: float | None = None  # that was asked for in place of the workload's own
    goal: Goal = Goal.MIN_COST
    precisions: tuple[Precision, ...] = (Precision.BF16, Precision.FP8)
    kv_precision: str = "bf16"
    gpus_per_node: int = 8
    split: bool = True  # prefill and decode on engines of their own are looked at
    speculation: bool = True  # drafts are looked at where they pay
    tiers: bool = True  # KV in the hosts' memory is looked at where it pays
    prices: Prices | None = None  # at other terms too; None = those of the stocks are all there are
    buying: Buying = Buying()

    @property
    def gpus(self) -> int:
        return sum(stock.count for stock in self.stocks)

    @property
    def said(self) -> str:
        """`16 x h100_sxm`"""
        return " + ".join(f"{stock.count} x {stock.gpu.name}" for stock in self.stocks)

    @property
    def priced(self) -> bool:
        return all(stock.price is not None for stock in self.stocks)

    @property
    def hardware(self) -> Hardware:
        return Hardware(self.model, {stock.name: stock.gpu for stock in self.stocks})

    @property
    def terms(self) -> Terms:
        given = {stock.gpu.name: stock.price.usd_h for stock in self.stocks if stock.price is not None}
        return Terms(self.asks, Prices(given=given) if self.prices is None else self.prices, self.buying)

    @property
    def by_class(self) -> dict[str, Objective]:
        return by_class(self.asks, self.classes, self.objective)
