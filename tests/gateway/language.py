"""The words of these tests: fresh prompts with a mark in them, and waiting for a condition."""

import asyncio
import itertools
import os
from collections.abc import Callable
from urllib.request import urlopen

from rig.engines import Engine
from rig.gateways import Gateway

MARK = "quokkaparsnip"  # in every prompt; must not show up anywhere
_numbers = itertools.count(int.from_bytes(os.urandom(4)))


def prompt(words: int = 200) -> str:
    """A fresh prompt: nothing of it is in any cache. Three tokens a word or so."""
    number = next(_numbers)
    return f"{number} {MARK} " + " ".join(str(number * 7919 * (i + 1) % 9973) for i in range(words))


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Asks again and again, and lets the loop run meanwhile. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


async def do(work: Callable[[], object]) -> None:
    """Runs what would block the loop."""
    await asyncio.to_thread(work)


def in_flight(gateway: Gateway, name: str) -> int:
    """Our requests on one endpoint, by the ledger."""
    count: int = gateway.endpoint(name)["in_flight"]
    return count


def by_name(pair: tuple[Engine, Engine], name: str) -> tuple[Engine, str]:
    """The engine called so, and the other one's name."""
    return (pair[0], "b") if name == "a" else (pair[1], "a")


def engine_metric(engine: Engine, name: str) -> float:
    """A number as the engine itself tells it; 0 for one it does not have yet."""
    with urlopen(f"{engine.url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))
