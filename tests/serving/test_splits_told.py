"""What is told of splits: over the channel, in stories, metrics and explanations."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from pilothouse.cli import showing
from pilothouse.config.load import from_data
from pilothouse.core.commands import AnyCommand, Route
from pilothouse.core.events import (
    Arrived,
    EndpointSeen,
    Failed,
    FailureKind,
    Finished,
    FirstToken,
    PrefillDone,
    Role,
)  # fmt: skip
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.live.clock import Clock
from pilothouse.serving.observe import Metrics
from pilothouse.serving.picker import NOTHING, Picker
from pilothouse.serving.record import Record
from pilothouse.serving.remote import RemoteSteering
from pilothouse.serving.settings import ConnectorSettings
from pilothouse.serving.worker import connectors, front_settings
from tests.serving.fakes import run

CLOCK = Clock()
R = RequestId("r1")


def pool(name: str, role: str, at: int, **connector: Any) -> dict[str, Any]:
    connector = {"type": "nixl", "lease": "10s"} | connector
    return {"name": name, "role": role, "connector": connector, "endpoints": [{"url": f"http://127.0.0.1:{at}"}]}


def config(*pools: dict[str, Any]) -> Any:
    both = pools or (pool("p", "prefill", 1), pool("d", "decode", 2))
    return from_data({"pools": list(both), "policy": {"like": "marginal_cost", "decider": {"type": "always"}}})


def picker() -> Picker:
    """One that knows a prefill and a decode endpoint."""
    made = Picker(config(), CLOCK, None)
    for name, role in (("p0", Role.PREFILL), ("d0", Role.DECODE)):
        made.driver.post(
            EndpointSeen(
                *(CLOCK.now_us(), EndpointId(name), f"http://{name}", name, ["m"]),
                role=role,
                connector="nixl",
                exchange="x",
            )
        )
    return made


def arrived() -> Arrived:
    return Arrived(CLOCK.now_us(), R, "m", 400, [], stream=True)


def values(of: Picker, name: str) -> dict[tuple[str, ...], float]:
    """Samples of a metric by the values of their labels."""
    families = Metrics(of.observer, of.dispatcher, CLOCK).collect()
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in samples}


def test_a_worker_s_split_is_the_picker_s(tmp_path: Path) -> None:
    async def main() -> None:
        made = picker()
        path = tmp_path / "picker.sock"
        server = await asyncio.get_running_loop().create_unix_server(made.serve_worker, path)
        steering = RemoteSteering(str(path), Directory(), CLOCK, 10_000_000)  # type: ignore[arg-type]
        task = asyncio.create_task(steering.run())
        await steering.informed.wait()
        answers: asyncio.Queue[AnyCommand] = asyncio.Queue()
        steering.arrive(arrived(), answers.put_nowait)
        route = await answers.get()
        assert isinstance(route, Route) and route.prefill is not None
        assert (route.endpoint, route.prefill.endpoint) == ("d0", "p0")
        assert route.why == route.prefill.why == NOTHING  # workers need no receipts
        steering.tell(PrefillDone(CLOCK.now_us(), R, 400, 0))
        steering.tell(FirstToken(CLOCK.now_us(), R))
        steering.tell(Finished(CLOCK.now_us(), R))
        steering.arrive(msgspec.structs.replace(arrived(), request=RequestId("r2")), answers.put_nowait)
        await answers.get()  # whatever was sent before has arrived
        story = made.observer.stories.ended[R]
        assert story.outcome == "finished" and story.prefilled_us is not None and story.first_token_us is not None
        assert made.dispatcher.fleet.endpoints[EndpointId("p0")].in_flight == 1  # the second one's prompt
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        made.driver.close()

    run(main())


def test_a_picker_that_is_away_need_not_hear_of_a_prefill() -> None:
    """It starts with an empty ledger; a failure then asks it anew for the whole request."""

    async def main() -> None:
        steering = RemoteSteering("nowhere", Directory(), CLOCK, 10_000_000)  # type: ignore[arg-type]
        commands: list[AnyCommand] = []
        steering.arrive(arrived(), commands.append)
        steering.tell(PrefillDone(CLOCK.now_us(), R, 400, 0))
        steering.tell(FirstToken(CLOCK.now_us(), R))
        assert [asked.arrived.request for asked in steering._asked.values()] == [R]
        steering.tell(Finished(CLOCK.now_us(), R))
        assert not steering._asked and not commands

    run(main())


class Directory:
    def update(self, served: Any) -> None: ...

    def status(self) -> list[Any]:
        return []


def test_splits_are_counted_by_step_and_failures_by_who_failed() -> None:
    async def main() -> None:
        made = picker()
        routes: list[AnyCommand] = []
        made.driver.arrive(arrived(), routes.append)
        made.driver.tell(Failed(CLOCK.now_us(), R, FailureKind.ERROR, False, prefill=True))
        made.driver.tell(PrefillDone(CLOCK.now_us(), R, 400, 0))
        made.driver.tell(Failed(CLOCK.now_us(), R, FailureKind.EXPIRED, False))
        made.driver.tell(Finished(CLOCK.now_us(), R))
        assert [isinstance(r, Route) and r.prefill is not None for r in routes] == [True, True, False]
        assert values(made, "pilothouse_splits_total") == {
            ("m", "begun"): 2, ("m", "prefilled"): 1, ("m", "failed"): 1, ("m", "expired"): 1,
        }  # fmt: skip
        failures = values(made, "pilothouse_attempt_failures_total")
        assert failures == {("p0", "error"): 1, ("d0", "expired"): 1}
        story = made.observer.stories.ended[R]
        assert story.failures == ["prefill error", "expired"] and story.prefilled_us is None  # of the last attempt
        made.driver.close()

    run(main())


def test_prefill_and_transfer_are_timed_by_the_front_door() -> None:
    made = picker()
    plain = {"request": "a", "method": "POST", "path": "/", "api": "chat", "kind": "steered", "status": 200}
    plain |= {"outcome": "finished", "model": "m", "endpoint": "d0", "attempts": 1}
    made.observer.observed(Record(**plain, prefill="p0", prefill_us=500_000, transfer_us=20_000))  # type: ignore[arg-type]
    made.observer.observed(Record(**plain))  # type: ignore[arg-type]
    assert values(made, "pilothouse_prefill_seconds_sum") == {("m", "p0"): 0.5}
    assert values(made, "pilothouse_prefill_seconds_count") == {("m", "p0"): 1}
    assert values(made, "pilothouse_kv_transfer_seconds_sum") == {("m", "d0"): 0.02}


@pytest.mark.parametrize("split", [True, False])
def test_explain_says_who_computed_the_prompt_and_why(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Any:
        made = picker()
        made.driver.arrive(msgspec.structs.replace(arrived(), splittable=split), lambda command: None)
        if split:
            made.driver.tell(PrefillDone(CLOCK.now_us(), R, 400, 0))
        made.driver.tell(FirstToken(CLOCK.now_us(), R))
        made.driver.tell(Finished(CLOCK.now_us(), R))
        made.driver.close()
        return msgspec.to_builtins(made.observer.stories.ended[R])

    story = run(main())
    console = Console(record=True, width=200)
    monkeypatch.setattr(showing, "console", console)
    monkeypatch.setattr(showing, "ask_gateway", lambda control, path: story)
    showing.explain("r1", "127.0.0.1:9090", None, False)
    said = console.export_text()
    assert ("prompt computed by p0, KV handed over by nixl" in said) == split
    assert ("prompt computed elsewhere after" in said and "after its prefill" in said) == split
    assert f"{'split' if split else 'whole'} by decider always" in said


def test_the_front_door_knows_each_prefill_engine_s_connector() -> None:
    pools = (
        pool("a", "prefill", 1, type="mooncake", port=9001, lease="20s"),
        pool("b", "prefill", 2, type="mooncake", port=9002, lease="10s"),
        pool("c", "prefill", 3, type="multi", carrier="nixl"),
        pool("d", "decode", 4, type="mooncake"),
    )
    found = connectors(config(*pools))
    second = ConnectorSettings(kind="mooncake", lease_us=Micros(10_000_000), port=9002)
    assert found["http://127.0.0.1:1"] == ConnectorSettings(kind="mooncake", lease_us=20_000_000, port=9001)
    assert found["http://127.0.0.1:2"] == second == found["mooncake"]  # the shortest lease, where nothing else is known
    assert found["http://127.0.0.1:3"] == found["multi"] == ConnectorSettings(kind="nixl", lease_us=10_000_000)
    assert "http://127.0.0.1:4" not in found
    settings = front_settings(config(*pools))
    assert settings.connector("http://127.0.0.1:2", "mooncake") == settings.connector("http://a", "mooncake") == second
    assert settings.salted_splits
    assert not front_settings(config(pool("a", "prefill", 1, type="files"), pools[3])).salted_splits
