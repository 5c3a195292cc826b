"""Text to `Config`, strictly: unknown fields, wrong types and impossible values are all reported, each with its path."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from pilothouse.config import disaggregation
from pilothouse.config.convert import convert
from pilothouse.config.policy import profile
from pilothouse.config.schema import Config, Settings
from pilothouse.config.values import Duration, Size
from pilothouse.core.errors import ConfigError, Problem

MAY_BE_ZERO = {"timeouts.waiting", "timeouts.drain", "limits.token_cache"}  # zero turns the thing off


NESTING = "[{?:-"  # what begins something inside something
NESTED_MAX = (
    5_000  # of these: deeper text could overflow libyaml's stack, and end the process (measured: at 20,000 to 40,000)
)

if TYPE_CHECKING:
    from yaml import SafeLoader as _Quick
else:  # libyaml, where it is there: 8 times as fast
    _Quick = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Strict(yaml.constructor.SafeConstructor):
    """YAML without code, and without a field given twice, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Loader(_Strict, _Quick):
    """By libyaml."""


class _DeepLoader(_Strict, yaml.SafeLoader):
    """In Python, where too deep is an error like any other."""


def load(text: str, source: str = "config") -> Config:
    """Reads YAML. Raises ConfigError with every problem found; `source` names the file in it."""
    data = read_yaml(text, source)
    return from_data({} if data is None else data, source)


def read_text(path: Path) -> str:
    """Of a file that a user named. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError([Problem(str(path), f"cannot be read: {reason}")]) from None


def read_yaml(text: str, source: str) -> Any:
    """Plain data, without code and without fields given twice. Raises ConfigError if it is no YAML."""
    return _read(lambda: yaml.load(text, _loader(text)), source)


def read_documents(text: str, source: str) -> list[Any]:
    """As `read_yaml`, of a file that may hold several documents."""
    documents: list[Any] = _read(lambda: list(yaml.load_all(text, _loader(text))), source)
    return documents


def _loader(text: str) -> type[_Loader | _DeepLoader]:
    return _Loader if sum(map(text.count, NESTING)) <= NESTED_MAX else _DeepLoader


def _read(reading: Callable[[], Any], source: str) -> Any:
    try:
        return reading()
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # the latter two: a date or number that is none; depth
        raise ConfigError([Problem(source, f"is not YAML: {' '.join(str(error).split())}")]) from None


def from_data(data: object, source: str = "config") -> Config:
    """As `load`, from what YAML would give. Rules between fields are looked at once every field is right by itself."""
    problems: list[Problem] = []
    config = convert(Config, data, "", problems)
    if isinstance(data, dict) and "policy" in data:
        problems += _policy(data["policy"])
    if config is not None:
        problems += [*_zeros(config, ""), *_addresses(config), *_pools(config), *disaggregation.problems(config)]
        problems += _order(config)
    if problems or config is None:
        raise ConfigError([Problem(f"{source}: {p.where}" if p.where else source, p.what) for p in problems])
    return config


def _policy(policy: object) -> list[Problem]:
    try:
        profile(policy)
    except ConfigError as error:
        return error.problems
    return []


def _zeros(section: Settings, where: str) -> list[Problem]:
    """A duration or size of zero is a loop without a pause, or a thing that never fits."""
    problems = []
    for name in section.__struct_fields__:
        value, path = getattr(section, name), f"{where}{name}"
        if isinstance(value, Settings):
            problems += _zeros(value, f"{path}.")
        elif isinstance(value, list):
            inner = ((i, item) for i, item in enumerate(value) if isinstance(item, Settings))
            problems += [problem for i, item in inner for problem in _zeros(item, f"{path}[{i}].")]
        elif isinstance(value, Duration | Size) and value == 0 and path not in MAY_BE_ZERO:
            problems.append(Problem(path, "must be more than 0"))
    return problems


def _addresses(config: Config) -> list[Problem]:
    problems = []
    for where, address in (("listen", config.listen), ("control", config.control)):
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            problems.append(Problem(where, f"{address!r} is not host:port"))
    if config.listen == config.control and not config.listen.endswith(":0"):
        problems.append(Problem("control", "must differ from `listen`"))
    return problems


def _pools(config: Config) -> list[Problem]:
    problems = []
    pools: dict[str, str] = {}
    names: dict[str, str] = {}
    for i, pool in enumerate(config.pools):
        if pool.name in pools:
            problems.append(Problem(f"pools[{i}].name", f"{pool.name!r} is there already, as {pools[pool.name]}"))
        pools.setdefault(pool.name, f"pools[{i}]")
        if not pool.endpoints and pool.dns is None:
            problems.append(Problem(f"pools[{i}]", "has no engines: give `endpoints` or `dns`"))
        if pool.endpoints and pool.dns is not None:
            problems.append(Problem(f"pools[{i}]", "give `endpoints` or `dns`, not both"))
        for j, engine in enumerate(pool.endpoints):
            where = f"pools[{i}].endpoints[{j}]"
            if not _is_base_url(engine.url):
                problems.append(Problem(f"{where}.url", f"{engine.url!r} is not http://host:port"))
            name = engine.name or engine.url.removeprefix("http://")
            if name in names:
                problems.append(Problem(where, f"{name} is there already, as {names[name]}"))
            names.setdefault(name, where)
    return problems


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        bare = bool(parts.hostname) and parts.port != 0 and "@" not in url and not any(map(str.isspace, url))
        return bare and url == f"http://{parts.netloc}"
    except ValueError:  # a port that is none, or brackets that are not closed
        return False


def _order(config: Config) -> list[Problem]:
    """Of two settings, one must not exceed the other."""
    problems = []
    if config.health.backoff > config.health.backoff_max:
        problems.append(Problem("health.backoff", "must not exceed `health.backoff_max`"))
    if config.journal.segment > config.journal.bytes_max:
        problems.append(Problem("journal.segment", "must not exceed `journal.bytes_max`"))
    return problems
