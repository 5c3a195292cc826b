"""The composition root: a configuration becomes a dispatcher. Nothing else builds parts of two layers together."""

from typing import Any

import msgspec

from pilothouse import policies
from pilothouse.config.policy import profile
from pilothouse.config.schema import Config
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.errors import JournalError
from pilothouse.core.health import HealthSettings
from pilothouse.journal.log import Header

assert policies  # importing it fills the registries


def settings(config: Config) -> DispatcherSettings:
    """What the decision needs to know of the configuration."""
    limits, health = config.limits, config.health
    return DispatcherSettings(
        seed=config.seed,
        attempts_max=limits.attempts,
        retry_ratio=limits.retry_ratio,
        retries_per_second=limits.retries_per_second,
        retries_burst=limits.retries_burst,
        waiting_max=limits.waiting,
        wait_us_max=config.timeouts.waiting.us,
        sessions_max=limits.sessions,
        index_blocks_max=limits.index_blocks,
        report_stale_us=config.signals.stale_after.us,
        health=HealthSettings(
            failures_max=health.failures,
            probe_failures_max=health.probe_failures,
            backoff_us_min=health.backoff.us,
            backoff_us_max=health.backoff_max.us,
        ),
    )


def dispatcher(config: Config) -> Dispatcher:
    """Raises ConfigError if the policy is wrong."""
    return Dispatcher(settings(config), profile(config.policy))


def journal_header(config: Config) -> tuple[dict[str, Any], Any]:
    """(settings, policy) as the journal's header holds them."""
    plain: dict[str, Any] = msgspec.to_builtins(settings(config))
    return plain, config.policy


def replayed_dispatcher(header: Header, snapshot: bytes) -> Dispatcher:
    """The dispatcher that wrote a journal's segment, as it was at the segment's beginning."""
    try:
        made = Dispatcher(msgspec.convert(header.settings, DispatcherSettings), profile(header.policy))
        if snapshot:
            made.restore(snapshot)
    except msgspec.MsgspecError as error:
        raise JournalError(f"segment {header.index}: its settings cannot be read: {error}") from error
    return made


def explaining_dispatcher(header: Header, snapshot: bytes) -> Dispatcher:
    """As `replayed_dispatcher`, with receipts that list every candidate."""
    everyone = 1 << 30
    return replayed_dispatcher(
        msgspec.structs.replace(header, settings=header.settings | {"why_max": everyone}), snapshot
    )
