"""Workers and the picker over a real socket: decisions, what is shared, and what outlives either side."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.config.load import from_data
from pilothouse.core.commands import AnyCommand, Reject, Route
from pilothouse.core.events import Arrived, EndpointSeen, Failed, FailureKind, Finished
from pilothouse.core.units import EndpointId, RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.directory import Directory
from pilothouse.live.models import ServedModel
from pilothouse.serving.channel import FRAME_MAX, Channel
from pilothouse.serving.picker import Picker
from pilothouse.serving.remote import RemoteSteering

CONFIG: dict[str, Any] = {"pools": [{"endpoints": [{"url": "http://127.0.0.1:1"}]}]}
CLOCK = Clock()


class KnownModels:
    """What a worker's directory would do, as far as the channel cares."""

    served: dict[str, ServedModel] = {}  # noqa: RUF012 - replaced, never changed in place

    def update(self, served: dict[str, ServedModel]) -> None:
        self.served = served

    def status(self) -> list[Any]:
        return []


@asynccontextmanager
async def picking(path: Path, endpoints: int = 2) -> AsyncIterator[Picker]:
    """A picker that knows endpoints e0, e1 ...; its journal, probes and scrapes are not started."""
    picker = Picker(from_data(CONFIG), CLOCK, None)
    for i in range(endpoints):
        picker.driver.post(EndpointSeen(CLOCK.now_us(), EndpointId(f"e{i}"), f"http://e{i}", "p", ["m"]))
    path.unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(picker.serve_worker, path)
    try:
        yield picker
    finally:
        server.close()
        for desk in list(picker.desks):
            desk.channel.close()
        await until(lambda: not picker.desks)
        picker.driver.close()


@asynccontextmanager
async def working(path: Path, wait_us: int = 10_000_000) -> AsyncIterator[tuple[RemoteSteering, KnownModels]]:
    models = KnownModels()
    directory: Directory = models  # type: ignore[assignment]
    steering = RemoteSteering(str(path), directory, CLOCK, wait_us)
    task = asyncio.create_task(steering.run())
    try:
        await steering.informed.wait()
        yield steering, models
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def ask(steering: RemoteSteering, request: str) -> "asyncio.Queue[AnyCommand]":
    answers: asyncio.Queue[AnyCommand] = asyncio.Queue()
    steering.arrive(Arrived(CLOCK.now_us(), RequestId(request), "m", 100, []), answers.put_nowait)
    return answers


def run(test: Callable[[Path], Awaitable[None]], tmp_path: Path) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test(tmp_path / "picker.sock")

    asyncio.run(bounded())


def test_two_workers_share_one_ledger(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with picking(path) as picker, working(path) as (a, _), working(path) as (b, _):
            first, second = await ask(a, "r1").get(), await ask(b, "r2").get()
            assert isinstance(first, Route) and isinstance(second, Route)
            assert {first.endpoint, second.endpoint} == {"e0", "e1"}
            a.tell(Finished(CLOCK.now_us(), RequestId("r1")))
            await until(lambda: list(picker.dispatcher.requests) == ["r2"])

    run(test, tmp_path)


def test_a_worker_that_dies_leaves_nothing_in_the_ledger(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with picking(path) as picker:
            async with working(path) as (worker, _):
                await ask(worker, "r1").get()
                assert picker.dispatcher.requests
            await until(lambda: not picker.dispatcher.requests)
            assert all(e.in_flight == 0 for e in picker.dispatcher.fleet.endpoints.values())

    run(test, tmp_path)


def test_stored_responses_are_told_to_the_other_workers(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with picking(path), working(path) as (a, _), working(path) as (b, _):
            learnt: list[tuple[str, str]] = []
            a.learnt = lambda response, endpoint: learnt.append(("a", response))
            b.learnt = lambda response, endpoint: learnt.append(("b", response))
            a.made("resp_1", "e0")
            await until(lambda: bool(learnt))
            await ask(b, "r1").get()  # whatever else was sent has arrived by then
            assert learnt == [("b", "resp_1")]

    run(test, tmp_path)


def test_a_new_picker_is_asked_again_and_an_empty_list_forgets_no_model(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with working_after(path) as (worker, models):
            answers = ask(worker, "r1")
            async with picking(path):
                assert isinstance(await answers.get(), Route)
                assert list(models.served) == ["m"]
                worker.tell(Failed(CLOCK.now_us(), RequestId("r1"), FailureKind.CONNECT, False))
                assert isinstance(await answers.get(), Route)

    @asynccontextmanager
    async def working_after(path: Path) -> AsyncIterator[tuple[RemoteSteering, KnownModels]]:
        """A worker whose picker served the model "m" and has died."""
        async with picking(path) as picker:
            picker._models_changed({"m": ServedModel("m", "p")})
            worker_context = working(path)
            worker, models = await worker_context.__aenter__()
        await until(lambda: worker._channel is None)
        try:
            yield worker, models
        finally:
            await worker_context.__aexit__(None, None, None)

    run(test, tmp_path)


def test_without_a_picker_a_request_is_refused_in_bounded_time(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with picking(path):
            context = working(path, wait_us=50_000)
            worker, _ = await context.__aenter__()
        await until(lambda: worker._channel is None)
        assert isinstance(await ask(worker, "r1").get(), Reject)
        await context.__aexit__(None, None, None)

    run(test, tmp_path)


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_may_be_cut_anywhere(step: int) -> None:
    received: list[int] = []
    channel = Channel(int, lambda: None, received.append, lambda: None)
    frames = b"".join(len(d).to_bytes(4, "big") + d for d in map(msgspec.msgpack.encode, range(300)))
    for start in range(0, len(frames), step):
        channel.data_received(frames[start : start + step])
    assert received == list(range(300))


def test_an_impossible_frame_ends_the_connection() -> None:
    closed: list[bool] = []

    class Transport:
        def abort(self) -> None:
            closed.append(True)

    channel = Channel(int, lambda: None, lambda message: None, lambda: None)
    channel.connection_made(Transport())  # type: ignore[arg-type]
    channel.data_received((FRAME_MAX + 1).to_bytes(4, "big"))
    assert closed == [True]
