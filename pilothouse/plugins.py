"""Third-party policies: imports what other distributions offer, then closes the registries. Call it once, before `build`.

A distribution offers its policies by an entry point of the group `pilothouse.plugins` whose value is a module; importing
the module registers them (examples/plugin). It runs with the gateway's rights: install only what you trust.
"""

from importlib.metadata import EntryPoint, entry_points

from pilothouse import policies
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.policy import deciders, filters, pickers, queues, scorers

GROUP = "pilothouse.plugins"

assert policies  # what ships comes first, so a third-party plugin cannot take its names


def load_plugins() -> list[str]:
    """Imports all plugins and seals the registries. Returns the distributions, by name, e.g. `fair-share 1.0`.

    Raises ConfigError naming every distribution whose plugin cannot be imported or registered.
    """
    found = sorted(entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name))
    problems: list[Problem] = []
    for entry in found:
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001  somebody else's module: whatever is wrong with it, say whose it is
            problems.append(
                Problem(f"plugin {_distribution(entry)}", f"{entry.value}: {type(error).__name__}: {error}")
            )
    if problems:
        raise ConfigError(problems)
    for registry in (filters, scorers, pickers, queues, deciders):
        registry.seal()
    return list(dict.fromkeys(map(_distribution, found)))


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "of no distribution"
