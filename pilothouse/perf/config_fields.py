"""Fields of one config.json, read strictly: by any of their names, typed, bounded, with what their family leaves out.

Whoever reads a file of somebody else's must expect anything in it: text in place of numbers, numbers below zero or
without end. All of it is refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.config_defaults import DEFAULTS

NUMBER_MAX = 1 << 24  # of any one field: vocabularies and widths of today are below a sixteenth of it
LAYERS_MAX = 4096
INSIDE = (
    "text_config",
    "llm_config",
    "language_config",
    "thinker_config",
)  # where a model that sees keeps its language
INSIDE_MAX = 3  # one within the other

Config = Mapping[str, Any]


class Fields:
    """Of the language model. `outer` is the whole file, which may say more than its language part."""

    def __init__(self, config: Config, name: str) -> None:
        self.name = name
        self.outer = config
        inner = text_part(config)
        self.model_type = str(inner.get("model_type") or config.get("model_type") or "")
        self._data: dict[str, Any] = {**DEFAULTS.get(self.model_type, {})}
        self._data |= {key: value for key, value in inner.items() if value is not None}

    def changed_by(self, change: Config) -> "Fields":
        """The same with other values for some fields."""
        return Fields({**self._data, **change, "model_type": self.model_type}, self.name) if change else self

    def number(self, *names: str, default: int = 0, most: int = NUMBER_MAX) -> int:
        """The first of these that is there and not 0. Raises ConfigError if it is no count."""
        for field in names:
            if (value := self._count(field, most)) > 0:
                return value
        return default

    def wanted(self, *fields: Sequence[str]) -> list[int]:
        """A number for each, the first of its names that is there. Raises ConfigError naming all that are missing."""
        found = [self.number(*names) for names in fields]
        self.refuse_missing([names[0] for names, value in zip(fields, found, strict=True) if not value])
        return found

    def is_on(self, field: str, default: bool = False) -> bool:
        return bool(self._data.get(field, default))

    def says(self, field: str) -> bool:
        """Whether it is there at all, if only as 0 or as an empty list."""
        return field in self._data

    def word(self, field: str, default: str = "") -> str:
        value = self._data.get(field)
        return value if isinstance(value, str) else default

    def words(self, field: str) -> list[str]:
        """Of a list; empty = it is not there, or no list."""
        value = self._data.get(field)
        return [str(each) for each in value[: LAYERS_MAX + 1]] if isinstance(value, list | tuple) else []

    def by_layer(self, field: str, layers: int) -> list[str]:
        """The same with one word for each layer. Raises ConfigError for another number of them."""
        words = self.words(field)
        if words and len(words) != layers:
            raise self.wrong(field, f"is told for {len(words):,} layers, and there are {layers:,}")
        return words

    def numbers(self, field: str) -> list[int]:
        """A list of small numbers, or a text with commas; empty = it is not there."""
        value = self._data.get(field)
        listed = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        try:
            return [int(each) for each in listed[: 4 * LAYERS_MAX]]
        except (TypeError, ValueError, OverflowError):
            raise self.wrong(field, "is not a list of numbers") from None

    def part(self, field: str) -> Config:
        value = self._data.get(field)
        return value if isinstance(value, Mapping) else {}

    def refuse_missing(self, fields: Sequence[str]) -> None:
        if fields:
            say = "complete the file, or describe the model in YAML with the fields of the catalogue's entries"
            raise ConfigError([Problem(f"{self.name}: config.json", f"lacks {', '.join(fields)}; {say}")])

    def wrong(self, field: str, what: str) -> ConfigError:
        return ConfigError([Problem(f"{self.name}: config.json: {field}", what)])

    def _count(self, field: str, most: int) -> int:
        value = self._data.get(field, 0)
        if value == "auto":
            return 0
        if isinstance(value, list | tuple) and value and all(each == value[0] for each in value):
            value = value[0]  # one for each layer, all the same
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value and value % 1 == 0
        if not whole:
            raise self.wrong(field, f"{str(value)[:40]!r} is not a whole number")
        if not 0 <= value <= most:
            raise self.wrong(field, f"{'is negative' if value < 0 else f'is above {most:,}'}: {str(value)[:40]}")
        return int(value)


def text_part(config: Config) -> Config:
    """The language model's part of a model that also sees or hears."""
    for _ in range(INSIDE_MAX):
        inner = next((config[key] for key in INSIDE if isinstance(config.get(key), Mapping) and config[key]), None)
        if inner is None:
            break
        config = inner
    return config
