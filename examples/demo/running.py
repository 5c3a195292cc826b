"""What every demo has around its traffic: the official client, signals that stop it in order, a sentence for what failed."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import aiohttp
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from examples.demo.fleet import DemoFailed, say


def talking(api: str) -> AsyncOpenAI:
    """The official client, with no proxy between this machine and itself, and no retries to hide anything."""
    http = DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(base_url=api, api_key="none", max_retries=0, http_client=http)


def run(demo: Coroutine[Any, Any, None]) -> None:
    """To its end, to Ctrl-C, or to what a person should read instead of a traceback."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    signal.signal(signal.SIGTERM, _terminate)
    try:
        asyncio.run(demo)
    except KeyboardInterrupt:
        say("Stopped. Nothing that was started is left running.")
        sys.exit(130)
    except Exception as error:
        if (problem := foreseen(error)) is None:
            raise
        sys.exit(f"The demo failed: {problem}")


def _terminate(number: int, frame: object) -> None:
    """As Ctrl-C, once: `timeout` and `make` both send it, and a second one would cut short what the first one ends."""
    signal.signal(number, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def foreseen(error: BaseException) -> BaseException | None:
    """What a person should read; None for a bug."""
    if isinstance(error, BaseExceptionGroup):
        return foreseen(error.exceptions[0])
    return error if isinstance(error, (DemoFailed, OpenAIError, aiohttp.ClientError)) else None
