"""What GPUs cost: lists as data, each price with its provider, date and source. A list of one's own comes first.

What ships is `price_lists/public.yaml`, and a list of one's own has the same form:

    quotes:
      - {provider: ours, date: 2026-11, source: contract of May, reserved_1y: {h100: 2.1}, spot: {h100: 1.2}}
    owned: {usd_per_kwh: 0.11, gpus: {h100: {capex_usd: 31000}}}

Of several public prices the lower median is taken, which is one that somebody asks for; so a plan names who it is.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from pilothouse.config.convert import convert
from pilothouse.config.load import read_text, read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import gpu_named
from pilothouse.perf.gpus import Gpu

HOURS_PER_MONTH = 730.0
RESERVED = ("reserved", "reserved_1y", "reserved_3y")  # the first is of a contract of any length
QUOTED = ("on_demand", *RESERVED, "spot")
TERMS = (*QUOTED, "owned")
Given = TypeVar("Given")
NotNegative = Annotated[float, Meta(ge=0)]


class Quotes(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one provider asks for [US dollars per GPU and hour]."""

    provider: str
    date: str
    source: str
    on_demand: dict[str, float] = {}  # by GPU
    reserved: dict[str, float] = {}
    reserved_1y: dict[str, float] = {}
    reserved_3y: dict[str, float] = {}
    spot: dict[str, float] = {}


class OwnedGpu(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """With its share of the server."""

    capex_usd: Annotated[float, Meta(gt=0)]
    power_w: NotNegative = 0.0  # 0 = as the list that ships, or the board's alone


class Owned(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What GPUs cost that one owns. None = as the list that ships."""

    date: str | None = None
    source: str | None = None
    months: Annotated[float, Meta(gt=0)] | None = None  # over which the price is paid
    pue: Annotated[float, Meta(ge=1)] | None = None  # power of the building / power of the servers
    usd_per_kwh: NotNegative | None = None
    usd_per_month: NotNegative = 0.0  # of each GPU: space, staff, support
    gpus: dict[str, OwnedGpu] = {}


class PriceList(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As a file says it. Names of GPUs as the catalogue understands them, or of an entry of one's own."""

    quotes: list[Quotes] = []
    owned: Owned = Owned()


class Price(Struct, frozen=True):
    """Of one GPU and hour."""

    usd_h: float
    said: str  # term, provider, date


class Prices(Struct, frozen=True):
    """Where prices are looked up."""

    lists: tuple[PriceList, ...] = ()  # the first that has a price counts
    provider: str = ""  # "" = any
    given: Mapping[str, float] = {}  # by GPU, in place of all lists [USD per hour]

    def of(self, gpu: Gpu, term: str) -> Price | None:
        """None = nobody said. `term` is one of `TERMS`; reserved: for any length."""
        if self.given:
            return Price(self.given[gpu.name], "as given") if gpu.name in self.given else None
        if term == "owned":
            return self._owned(gpu)
        for one in self.lists:
            found = sorted(
                (price, quotes.provider, quotes.date)
                for quotes in one.quotes
                for kind in (RESERVED if term == "reserved" else (term,))
                if (price := getattr(quotes, kind).get(gpu.name)) is not None and self.provider in ("", quotes.provider)
            )
            if found:
                usd_h, provider, day = found[(len(found) - 1) // 2]
                among = f"; {len(found)} prices from {found[0][0]:.3g} to {found[-1][0]:.3g}" if len(found) > 1 else ""
                return Price(usd_h, f"{term}, {provider}, {day}{among}")
        return None

    def terms(self, gpu: Gpu) -> list[str]:
        """Those at which there is a price, reserved once."""
        return [term for term in ("on_demand", "reserved", "spot", "owned") if self.of(gpu, term) is not None]

    @property
    def providers(self) -> list[str]:
        return sorted({quotes.provider for one in self.lists for quotes in one.quotes})

    def _owned(self, gpu: Gpu) -> Price | None:
        parts = [one.owned for one in self.lists]
        own = next((part.gpus[gpu.name] for part in parts if gpu.name in part.gpus), None)
        months, pue, usd_per_kwh = (
            next((value for part in parts if (value := getattr(part, field)) is not None), None)
            for field in ("months", "pue", "usd_per_kwh")
        )
        if own is None or months is None or pue is None or usd_per_kwh is None or self.provider:
            return None
        drawn = [part.gpus[gpu.name].power_w for part in parts if gpu.name in part.gpus]
        kilowatts = next((watts for watts in drawn if watts), gpu.power_w) / 1000
        more = sum(part.usd_per_month for part in parts)
        usd_h = (own.capex_usd / months + more) / HOURS_PER_MONTH + kilowatts * pue * usd_per_kwh
        said = (
            f"{own.capex_usd:,.0f} USD over {months:g} months, {kilowatts:g} kW x PUE {pue:g} x {usd_per_kwh:g} USD/kWh"
        )
        monthly = f", {more:g} USD a month" if more else ""
        return Price(usd_h, f"owned: {said}{monthly}")


def public() -> PriceList:
    """The list that ships."""
    name = "price_lists/public.yaml"
    return _parsed((files("pilothouse.plan") / name).read_text(encoding="utf-8"), name)


def read_prices(path: Path, also: Sequence[str] = ()) -> PriceList:
    """One's own. Raises ConfigError with every problem. `also`: GPUs that the catalogue has not."""
    try:
        text = read_text(path)
    except ConfigError as error:
        raise ConfigError(
            [Problem("--prices", f"{problem.where} {problem.what}") for problem in error.problems]
        ) from None
    return _parsed(text, str(path), also)


def _parsed(text: str, path: str, also: Sequence[str] = ()) -> PriceList:
    problems: list[Problem] = []
    made = convert(PriceList, _days(read_yaml(text, path)), "", problems)
    if made is not None:
        made = PriceList(
            quotes=[_named(quotes, f"quotes[{i}]", problems, also) for i, quotes in enumerate(made.quotes)],
            owned=replace(made.owned, gpus=_by_name(made.owned.gpus, "owned.gpus", problems, also)),
        )
        if not made.quotes and made.owned == Owned():
            problems.append(Problem("quotes", "is missing, and so is owned: there is no price"))
        _above_zero(made, problems)
    if problems or made is None:
        raise ConfigError([Problem(f"{path}: {p.where}" if p.where else path, p.what) for p in problems])
    return made


def _days(data: Any) -> Any:
    """YAML reads a day as a date."""
    if isinstance(data, dict):
        return {name: _days(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_days(value) for value in data]
    return data.isoformat() if isinstance(data, date) else data


def _named(quotes: Quotes, where: str, problems: list[Problem], also: Sequence[str]) -> Quotes:
    made = {term: _by_name(getattr(quotes, term), f"{where}.{term}", problems, also) for term in QUOTED}
    return replace(quotes, **made)


def _by_name(given: dict[str, Given], where: str, problems: list[Problem], also: Sequence[str]) -> dict[str, Given]:
    """By the catalogue's names."""
    found: dict[str, Given] = {}
    for name, value in given.items():
        try:
            found[name if name in also else gpu_named(name).name] = value
        except KeyError as error:
            problems.append(Problem(f"{where}.{name}", str(error.args[0])))
    return found


def _above_zero(made: PriceList, problems: list[Problem]) -> None:
    values = [
        (f"quotes[{i}].{term}.{gpu}", usd)
        for i, quotes in enumerate(made.quotes)
        for term in QUOTED
        for gpu, usd in getattr(quotes, term).items()
    ]
    problems += [Problem(place, "must be above 0") for place, value in values if value <= 0]
