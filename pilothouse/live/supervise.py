"""Background loops: named, restarted with back-off when they fail, counted, and stopped by cancelling their task."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tenacity import RetryCallState, Retrying, wait_exponential_jitter

log = logging.getLogger(__name__)

BACKOFF_S_MAX = 30.0
_backoff = wait_exponential_jitter(multiplier=0.2, max=BACKOFF_S_MAX)

failures: dict[str, int] = {}  # kind of loop -> failures since start; a bounded set of names


async def supervised(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Runs `loop` until it returns or this task is cancelled; an exception is logged and the loop started again.

    `name` is `kind` or `kind/which`; failures are counted per kind.
    """
    state = RetryCallState(Retrying(), None, (), {})
    while True:
        try:
            return await loop()
        except Exception as error:  # noqa: BLE001 - a background loop is one of the three boundaries that may catch everything
            kind = name.partition("/")[0]
            failures[kind] = failures.get(kind, 0) + 1
            delay_s = _backoff(state)
            state.attempt_number = min(state.attempt_number + 1, 16)
            log.warning("%s failed, again in %.1f s: %s: %s", name, delay_s, type(error).__name__, error)
            await asyncio.sleep(delay_s)
