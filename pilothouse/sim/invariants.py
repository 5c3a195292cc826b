"""What must hold after everything that happens in a simulated world. For tests: it makes a run many times slower.

- each planned request ends exactly once, and nothing else ends;
- each gateway's ledger is what is in flight, endpoint by endpoint, and its time never goes back;
- an engine runs and queues no request twice, and none that was never sent there; its KV blocks add up;
- from a dispatcher no path leads to an engine, its blocks, or the world around them.
"""

from collections import Counter
from collections.abc import Iterator
from gc import get_referents
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from pilothouse.core.commands import AnyCommand
from pilothouse.core.events import AnyEvent
from pilothouse.core.units import Micros, RequestId
from pilothouse.sim.agenda import Agenda
from pilothouse.sim.blocks import BlockStore
from pilothouse.sim.clients import Clients
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import Engine
from pilothouse.sim.hosts import Host
from pilothouse.sim.jobs import Sequence
from pilothouse.sim.tiers import Tiers
from pilothouse.workload.requests import Planned

TRUTH = (Engine, BlockStore, Tiers, Sequence, Host, Driver, Clients, Agenda, Planned)


def run_checked(driver: Driver) -> None:
    """The whole run, looked at after every entry of the agenda; raises AssertionError at the first thing that is wrong."""
    watch, last_us = driver.watch, [Micros(0)]

    def watched(event: AnyEvent, commands: list[AnyCommand]) -> None:
        assert event.at_us >= last_us[0], f"{event} is told after {last_us[0]}"
        assert event.at_us == driver.now_us, f"{event} is told at {driver.now_us}"
        last_us[0] = event.at_us
        if watch is not None:
            watch(event, commands)

    driver.watch = watched
    ended: Counter[RequestId] = Counter()
    counted = [0, 0]  # stages, and outcomes of the last one, that `ended` has
    while driver.advance():
        check_ends(driver, ended, counted)
        check_ledgers(driver)
        check_engines(driver)
    check_over(driver, ended)


def check_ends(driver: Driver, ended: Counter[RequestId], counted: list[int]) -> None:
    """Takes in the outcomes that are new since the last call."""
    if len(driver.results) > counted[0]:
        assert not counted[0] or len(driver.results[-2].outcomes) == counted[1], "a stage grew after its end"
        counted[:] = len(driver.results), 0
    if not driver.results:
        return
    result = driver.results[-1]
    for outcome in result.outcomes[counted[1] :]:
        ended[outcome.request] += 1
        assert ended[outcome.request] == 1, f"{outcome.request} ended twice"
        assert outcome.sent_us <= outcome.first_us <= outcome.end_us == driver.now_us
        assert outcome.refused == bool(outcome.error)
    counted[1] = len(result.outcomes)
    assert result.left == len(result.stage.requests) - len(result.outcomes)
    assert len(driver.flights) <= result.left
    assert all(request not in ended for request in driver.flights)


def check_ledgers(driver: Driver) -> None:
    for i, gateway in enumerate(driver.gateways):
        mine = [flight for flight in driver.flights.values() if flight.gateway == i]
        dispatcher = gateway.dispatcher
        assert sorted(dispatcher.requests) == sorted(flight.planned.request for flight in mine)
        held = Counter(flight.endpoint for flight in mine if flight.endpoint is not None)
        held.update(flight.split.endpoint for flight in mine if flight.split is not None)
        for endpoint in dispatcher.fleet.endpoints.values():
            assert endpoint.in_flight == held[endpoint.id], f"ledger of {endpoint.id} is wrong"
            parts = [part for r in dispatcher.requests.values() for part in (r, r.step) if part is not None]
            prefilling = [part for part in parts if part.endpoint == endpoint.id and part.prefilling]
            assert endpoint.prefill_tokens == sum(r.uncached_tokens for r in prefilling)
        for flight in mine:
            assert (flight.job is None) == (flight.endpoint is None)
            assert flight.job is None or driver.jobs[flight.job.request] is flight
    assert all(flight.planned.request in driver.flights for flight in driver.jobs.values())


def check_engines(driver: Driver) -> None:
    """Every attempt that has reached an engine which can be heard is there, or its end is on the way."""
    for host in driver.hosts.values():
        engine = host.engine
        engine.store.check()
        apart = engine.handed.sequences
        sequences = [*engine.waiting, *engine.running.values(), *apart]
        names = [sequence.job.request for sequence in sequences]
        assert len(names) == len(dict.fromkeys(names)), f"{host.id} has a request twice"
        assert len(engine.running) <= host.spec.sequences_max
        assert host.up or not names, f"{host.id} is down and has requests"
        assert host.due_us == engine.next_step_us()
        idle_for_room = engine.waiting and not engine.running and (engine.handed.kept or engine.handed.fetching)
        assert (host.due_us is None) == (not engine.running and (not engine.waiting or bool(idle_for_room)))
        assert not engine.handed.fetches and (engine.tiers is None or not engine.tiers.loads)
    for request, transfer in driver.transfers.under_way.items():
        assert transfer.kept in transfer.source.engine.handed.kept, f"{request} fetches what is not kept"
        assert transfer.request in transfer.target.engine.handed.fetching


def check_over(driver: Driver, ended: Counter[RequestId]) -> None:
    """Nothing is left of anything."""
    planned = [planned.request for stage in driver.workload.stages for planned in stage.requests]
    assert ended.total() == len(planned) and all(ended[request] == 1 for request in planned)
    assert not driver.flights and not driver.jobs and driver.clients.over and not driver.transfers.under_way
    for host in driver.hosts.values():
        assert host.engine.store.available == host.spec.kv_blocks
    for gateway in driver.gateways:
        check_blind(gateway.dispatcher)


def check_blind(dispatcher: object) -> None:
    """No decision can read what only the engine knows: nothing of it can be reached."""
    for found in reachable(dispatcher):
        assert not isinstance(found, TRUTH), f"the dispatcher can reach {type(found).__name__}"


def reachable(start: object) -> Iterator[object]:
    """Objects that can be reached from this one without passing through code: through attributes, containers, bound
    methods and what functions have closed over."""
    seen, stack = {id(start)}, [start]
    while stack:
        found = stack.pop()
        yield found
        for next_one in _referents(found):
            if id(next_one) not in seen:
                seen.add(id(next_one))
                stack.append(next_one)


def _referents(found: object) -> list[object]:
    match found:
        case type() | ModuleType() | BuiltinFunctionType() | str() | int() | float() | bytes():
            return []
        case FunctionType():
            return [*(found.__closure__ or ()), *(found.__defaults__ or ())]
        case MethodType():
            return [found.__self__, found.__func__]
        case _:
            return get_referents(found)
