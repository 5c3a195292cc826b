"""The gateway's own end: drained, killed in part, broken. What can go on does, and nothing is left behind."""

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rig.clients import Client, Stream
from rig.engines import Engine, free_port
from rig.gateways import Gateway
from tests.gateway.language import by_name, do, in_flight, prompt, until
from tests.gateway.laws import Gateways

pytestmark = pytest.mark.engine
Pair = tuple[Engine, Engine]
LONG = 2500  # tokens: a stream of three seconds and more
# Runs the gateway's own command line after breaking one handler of the dispatcher for requests with a certain id.
BREAK = """
from pilothouse.core.dispatcher import Dispatcher
first_token = Dispatcher._first_token
def broken(self, event):
    assert "break-me" not in event.request, "injected"
    return first_token(self, event)
Dispatcher._first_token = broken
from pilothouse.cli import app
app()
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stop_lets_streams_end_and_takes_no_more(workers: int, pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair), workers=workers)
    async with Client(gateway.url) as client, AsyncExitStack() as stack:
        unary = asyncio.create_task(client.ask(prompt(), max_tokens=LONG))
        streams = await begun(stack, client, 4)
        await until(lambda: gateway.status()["requests_in_flight"] == 5)
        stopping = asyncio.create_task(gateways.finish(gateway, idle=False))
        await until(lambda: not listens(gateway))
        refused = await client.ask(prompt())
        assert refused.status == 0, "nobody listens"
        answers = await asyncio.gather(unary, *(stream.rest() for stream in streams))
        assert all(a.is_good and a.usage["completion_tokens"] == LONG for a in answers)
        await stopping
    assert [line["outcome"] for line in gateway.requests()] == ["finished"] * 5


async def test_a_stop_waits_no_longer_than_it_may(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(pair[0].url, timeouts={"drain": "300ms"})
    async with Client(gateway.url) as client, client.stream(prompt(), max_tokens=7000) as stream:
        await gateways.finish(gateway, idle=False)
        assert (await stream.rest()).broke
    assert [line["outcome"] for line in gateway.requests()] == ["cancelled"]


async def test_a_stop_is_heard_even_when_no_worker_ever_listens(gateways: Gateways) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    gateway = await gateways.start(dead, workers=2, timeouts={"drain": "10ms"}, wait=False)
    await until(lambda: len(gateway.role("worker")) == 2)
    for pid in gateway.role("worker"):
        os.kill(pid, signal.SIGSTOP)
    assert not listens(gateway)
    await gateways.finish(gateway, idle=False)


async def test_a_killed_worker_takes_only_its_own_streams(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair), workers=2)
    victim, other = gateway.role("worker")
    async with Client(gateway.url) as client, AsyncExitStack() as stack:
        streams: list[Stream] = []
        while {served(gateway, victim, streams), served(gateway, other, streams)} & {0}:
            streams.append(await stack.enter_async_context(client.stream(prompt(), max_tokens=2 * LONG)))
        lost = served(gateway, victim, streams)
        os.kill(victim, signal.SIGKILL)
        answers = await asyncio.gather(*(stream.rest() for stream in streams))
        assert sum(not a.is_good for a in answers) == lost
        assert sum(a.is_good for a in answers) == len(streams) - lost > 0
        assert all(a.broke for a in answers if not a.is_good)
        more = await asyncio.gather(*(client.ask(prompt(20)) for _ in range(12)))
        assert all(a.is_good for a in more)
        await until(lambda: len(gateway.role("worker")) == 2 and gateway.is_idle())
        assert victim not in gateway.role("worker")
        again = await asyncio.gather(*(client.ask(prompt(20)) for _ in range(12)))
        assert all(a.is_good for a in again)


async def test_streams_outlive_the_picker(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair), workers=2)
    (picker,) = gateway.role("picker")
    loop = asyncio.get_running_loop()
    async with Client(gateway.url) as client, AsyncExitStack() as stack:
        text = prompt()
        known = await client.ask(text)
        await until(lambda: len(gateway.requests()) == 1)  # what a process had not written yet dies with it
        held = gateway.status()["index"]["holders"]
        unary = asyncio.create_task(client.ask(prompt(), max_tokens=2 * LONG))
        streams = await begun(stack, client, 3, 2 * LONG)
        await until(lambda: gateway.status()["requests_in_flight"] == 4)
        os.kill(picker, signal.SIGKILL)
        killed = loop.time()
        fresh = [asyncio.create_task(client.ask(prompt(20), stream=i % 2 == 0)) for i in range(8)]
        assert all(a.is_good for a in await asyncio.gather(*fresh))
        assert loop.time() - killed < 30, "seconds, most of them Python's start while engines have all cores"
        answers = await asyncio.gather(unary, *(stream.rest() for stream in streams))
        assert all(a.is_good and a.usage["completion_tokens"] == 2 * LONG for a in answers)
        await until(lambda: answers_control(gateway) and gateway.states() == "up up" and gateway.is_idle())
        assert gateway.role("picker") != [picker]
        await until(lambda: gateway.status()["index"]["holders"] >= held)  # from the engines' rings
        # To the new picker the old one's requests are others', until the engines report that they ended.
        await until(lambda: all(e["others"] == e["running"] == 0 for e in gateway.status()["endpoints"]))
        again = await client.ask(text)
        assert again.is_good and again.endpoint == known.endpoint, gateway.get(f"/explain/{again.request}")
        assert again.expected == again.cached > 0
    await gateways.finish(gateway)
    ended = sorted(line["request"] for line in gateway.requests())
    assert ended == sorted(a.request for a in [known, again, *answers, *(t.result() for t in fresh)])


async def test_a_failure_while_the_picker_is_away_is_made_good(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair), workers=2)
    async with Client(gateway.url) as client:
        asked = asyncio.create_task(client.ask(prompt(), max_tokens=LONG))
        await until(lambda: in_flight(gateway, "a") + in_flight(gateway, "b") == 1)
        engine, other = by_name(pair, "a" if in_flight(gateway, "a") else "b")
        os.kill(gateway.role("picker")[0], signal.SIGKILL)
        await do(engine.kill)
        answer = await asked
        assert answer.is_good and answer.endpoint == other


async def test_a_broken_dispatcher_ends_the_gateway(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.start(*(e.url for e in pair), command=("-c", BREAK))
    async with Client(gateway.url) as client, client.stream(prompt(), max_tokens=7000) as stream:
        assert (await client.ask(prompt())).is_good
        fatal = await client.ask(prompt(), stream=True, max_tokens=7000, headers={"x-request-id": "break-me"})
        assert fatal.broke
        assert await asyncio.to_thread(gateway.wait, 10) == 70, gateway.said()
        assert (await stream.rest()).broke
    assert "injected" in gateway.said()
    arrived = [entry.event for entry in gateway.entries() if type(entry.event).__name__ == "Arrived"]
    assert len(arrived) == 3, "the journal holds everything up to the event that broke it"
    await gateways.finish(gateway, status=70)


async def begun(stack: AsyncExitStack, client: Client, count: int, tokens: int = LONG) -> list[Stream]:
    """So many streams, begun at the same time."""
    streams = (stack.enter_async_context(client.stream(prompt(), max_tokens=tokens)) for _ in range(count))
    return await asyncio.gather(*streams)


def listens(gateway: Gateway) -> bool:
    """Whether new connections are taken."""
    host, _, port = gateway.listen.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def answers_control(gateway: Gateway) -> bool:
    """Whether the control address is there (again)."""
    try:
        return gateway.get("/health")[0] == 200
    except OSError:
        return False


def served(gateway: Gateway, pid: int, streams: list[Stream]) -> int:
    """How many of these streams a process carries: its established connections from clients."""
    if not streams:
        return 0
    port = f"{int(gateway.listen.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port}") and row[3] == "01"}
    held = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.exists() or file.is_symlink()]
    return sum(name in inodes for name in held)
