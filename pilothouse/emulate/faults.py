"""Faults on demand: what an engine may do to those who rely on it."""

import msgspec

from pilothouse.core.errors import ConfigError, Problem


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one emulated engine does wrong at present."""

    error_rate: float = 0.0  # share of generation requests answered with `error_status`
    error_status: int = 500
    disconnect_rate: float = 0.0  # share of generation requests cut off after `disconnect_after` tokens
    disconnect_after: int = 1  # tokens
    slow: float = 1.0  # steps take this many times as long
    hang: bool = False  # connections stay open and nothing answers
    refuse: bool = False  # nobody listens; what is under way goes on
    crash: bool = False  # all is lost at once: connections, work, cache; starts anew when `seconds` are over
    seconds: float = 0.0  # how long; 0 = until told otherwise

    def __post_init__(self) -> None:
        if not (0 <= self.error_rate <= 1 and 0 <= self.disconnect_rate <= 1):
            raise ValueError("error_rate and disconnect_rate must lie between 0 and 1")
        if not 400 <= self.error_status <= 599:
            raise ValueError("error_status must lie between 400 and 599")
        if not 0.01 <= self.slow <= 1000:
            raise ValueError("slow must lie between 0.01 and 1000")
        if self.disconnect_after < 0 or self.seconds < 0:
            raise ValueError("disconnect_after and seconds must not be negative")


NONE = Faults()
NAMES = Faults.__struct_fields__
SWITCHES = ("hang", "refuse", "crash")


def parse_fault(text: str) -> tuple[int | None, Faults]:
    """`[REPLICA:]name=value,name,...` of the command line; without a number, all replicas. Raises ConfigError."""
    number, colon, rest = text.rpartition(":")
    if colon and not number.isdigit():
        raise _wrong(text, f"{number!r} is no replica's number")
    fields: dict[str, object] = {}
    for part in rest.split(","):
        name, given, value = part.strip().partition("=")
        if name not in NAMES:
            raise _wrong(text, f"unknown fault {name!r}, known: {', '.join(NAMES)}")
        if not given and name not in SWITCHES:
            raise _wrong(text, f"{name} needs a value")
        fields[name] = value if given else True
    try:
        return int(number) if colon else None, msgspec.convert(fields, Faults, strict=False)
    except ValueError as error:
        raise _wrong(text, str(error)) from None


def _wrong(text: str, what: str) -> ConfigError:
    return ConfigError([Problem("--fault", f"{text!r}: {what}; e.g. 1:slow=3 or error_rate=0.1")])
