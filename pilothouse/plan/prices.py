"""What GPUs cost: a list as data, with date and source, which a file of one's own replaces.

Ships: middles of public quotes for capacity on demand (`perf/gpus.py`). Nobody publishes what reserved or spot capacity
costs him, so for those terms, and for GPUs that one owns, there has to be a file:

    date: 2026-11
    source: our contract
    gpus:
      h100: {on_demand: 2.9, reserved: 2.1, spot: 1.2, owned_per_month: 650, power_usd_per_kwh: 0.12}
"""

from pathlib import Path

from msgspec import Struct

from pilothouse.config.convert import convert
from pilothouse.config.load import read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import gpu_named
from pilothouse.perf.gpus import Gpu

HOURS_PER_MONTH = 730.0
TERMS = ("on_demand", "reserved", "spot", "owned")


class GpuPrice(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """US dollars per GPU and hour; what is owned, per GPU and month, with its share of the server and the building."""

    on_demand: float | None = None
    reserved: float | None = None
    spot: float | None = None
    owned_per_month: float | None = None
    power_usd_per_kwh: float = 0.0  # of owned ones, at the board's full power


class PriceList(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As a file says it. Names as the catalogue understands them."""

    date: str
    source: str
    gpus: dict[str, GpuPrice]


class Price(Struct, frozen=True):
    """Of one GPU."""

    usd_h: float
    said: str  # term, source and date


def price_of(gpu: Gpu, term: str, own: PriceList | None = None) -> Price | None:
    """None = nobody said. A list of one's own comes first; `term` is one of `TERMS`."""
    if own is not None and gpu.name in own.gpus:
        given, where = own.gpus[gpu.name], f"{own.source}, {own.date}"
        if term == "owned" and given.owned_per_month is not None:
            power = gpu.power_w / 1000 * given.power_usd_per_kwh
            return Price(given.owned_per_month / HOURS_PER_MONTH + power, f"owned, {where}")
        usd_h = None if term == "owned" else getattr(given, term)
        if usd_h is not None:
            return Price(usd_h, f"{term}, {where}")
    if term != "on_demand" or gpu.price_usd_h is None:
        return None
    low, high = gpu.price_usd_h
    quotes = f"{low:g} to {high:g}" if high > low else f"{low:g}"
    return Price((low * high) ** 0.5, f"on_demand, middle of public quotes of {quotes} USD/h, {gpu.price_date}")


def read_prices(path: Path) -> PriceList:
    """Raises ConfigError with every problem."""
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("--prices", f"cannot read {path}: {error}")]) from None
    problems: list[Problem] = []
    gpus: dict[str, GpuPrice] = {}
    given = data.pop("gpus", None) if isinstance(data, dict) else None
    if not isinstance(given, dict):
        raise ConfigError([Problem(f"{path}: gpus", "is missing: a mapping from GPUs to their prices")])
    made = convert(PriceList, data | {"gpus": {}}, "", problems)
    for name, value in given.items():
        price = convert(GpuPrice, value, f"gpus.{name}", problems)
        try:
            known = gpu_named(str(name)).name
        except KeyError as error:
            problems.append(Problem(f"gpus.{name}", str(error.args[0])))
            continue
        if price is not None:
            gpus[known] = price
            values = [price.on_demand, price.reserved, price.spot, price.owned_per_month]
            if any(value is not None and value <= 0 for value in values):
                problems.append(Problem(f"gpus.{name}", "prices must be above 0"))
    if problems or made is None:
        raise ConfigError([Problem(f"{path}: {p.where}" if p.where else str(path), p.what) for p in problems])
    return PriceList(date=made.date, source=made.source, gpus=gpus)
