"""One simulated engine on the wall clock.

Theory of operation. The engine says when its step under way ends; one timer waits for that, ends the step, and hands
every answer its new token in one pass. Steps end, for the engine, exactly when they are due, however late the timer
fires: lateness never adds up. Whatever arrives first ends the steps that are due, so the engine's time never goes back.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from pilothouse.core.units import Micros, RequestId
from pilothouse.emulate.accounts import Accounts
from pilothouse.emulate.errors import Refused
from pilothouse.emulate.kv_blocks import Chain, KvBlocks
from pilothouse.emulate.kv_publisher import Event
from pilothouse.emulate.metrics import EngineMetrics, Gauges
from pilothouse.emulate.pace import Pace
from pilothouse.emulate.transfer import LEASE_US, Link
from pilothouse.emulate.work import Work
from pilothouse.sim.engine import Engine
from pilothouse.sim.jobs import Job, Sequence

EARLY_US = 500  # a step may end this much early: the event loop's timers count whole milliseconds
LATE_US = 10_000  # a step that ends later than this counts as late


class Replica:
    """Requests in, tokens out. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        pace: Pace,
        metrics: EngineMetrics,
        link: Link,
        publish: Callable[[list[Event]], None] | None,
        queued_max: int | None = None,
    ) -> None:
        self.engine, self.pace, self._accounts, self._link = engine, pace, Accounts(metrics, pace), link
        link.others[link.engine] = self.let_go
        self.steps = self.late_steps = self.late_us = self.latest_us = 0  # for status, by the wall
        self._publish, self._queued_max = publish, queued_max
        self._blocks = KvBlocks(engine.spec.block_size)
        self._works: dict[RequestId, Work] = {}
        self._kept: dict[str, RequestId] = {}  # for other engines, by the name under which they ask
        self._retired: list[Chain] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_us = -1
        self._last_us = self._step_us = 0  # the engine's latest time; the last step's end
        self._orders_seen = -1
        self._loop = asyncio.get_running_loop()

    # Requests

    def check_room(self) -> None:
        """Raises Refused when the queue is full."""
        engine = self.engine
        if self._queued_max is not None and len(engine.waiting) + len(engine.handed) >= self._queued_max:
            self._accounts.rejected()
            what = "The engine is currently busy and cannot accept new requests. Please try again later or on a"
            raise Refused(f"{what} different instance.", 503)

    def submit(self, work: Work) -> None:
        """Takes a request."""
        now_us = self._catch_up()
        work.arrived_us = now_us
        self._works[work.id] = work
        if self._publish:
            self._blocks.begin(work.chain)
        prompt, tokens = work.answer.prompt, work.answer.plan.tokens
        output = work.chain.keys[len(prompt.keys) :]
        job = Job(work.id, prompt.keys, prompt.tokens, tokens, output)
        job = msgspec.structs.replace(job, handed=work.handed_by is not None, kept=bool(work.kept_as))
        self.engine.submit(job, now_us)
        self._note_admitted(now_us)
        self._arm()

    def let_go(self, name: str) -> None:
        """Another engine has fetched what was kept for it."""
        self._let_go(name, self._catch_up())
        self._arm()

    def cancel(self, work: Work) -> None:
        """Its client has gone."""
        if self._works.pop(work.id, None) is None:
            return
        self.engine.abort(work.id, self._catch_up())
        self._accounts.aborted()
        self._retired.append(work.chain)
        if self.engine.next_step_us() is None:
            self._retire()
        self._arm()

    def reset_cache(self) -> bool:
        """Empties the prefix cache, unless somebody uses it, as the engine does."""
        self._catch_up()
        store = self.engine.store
        if self.engine.next_step_us() is not None:
            return False
        count = store.available
        store.take(count)
        store.private -= count
        store.collect()
        if self._publish:
            self._publish(self._blocks.clear())
        return True

    def change_pace(self, factor: float) -> None:
        """From now on; 0 stops the engine."""
        self._catch_up()
        self.pace.change(factor)
        self._armed_us = -1
        self._arm()

    def gauges(self) -> Gauges:
        now_us = self._catch_up()
        load = self.engine.load(Micros(now_us))
        deferred = len(self.engine.handed)
        running = list(dict.fromkeys(w.lora for w in self._works.values() if w.lora and w.scheduled_us >= 0))
        waiting = list(dict.fromkeys(w.lora for w in self._works.values() if w.lora and w.scheduled_us < 0))
        return Gauges(
            load.running, load.waiting - deferred, deferred, load.kv_used_ratio, ",".join(running), ",".join(waiting)
        )

    def close(self) -> None:
        """Stops for good; whoever waits for an answer is somebody else's concern."""
        if self._timer is not None:
            self._timer.cancel()
        self._works.clear()
        self._link.others.pop(self._link.engine, None)

    # Time

    def _tick(self) -> None:
        self._timer, self._armed_us = None, -1
        self._catch_up(EARLY_US)
        self._arm()

    def _arm(self) -> None:
        self._begin_fetches(self._last_us)
        due_us = self._due_us()
        if due_us == self._armed_us:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait_s = self.pace.until_s(due_us) if due_us >= 0 else None
        if wait_s is not None:
            self._timer = self._loop.call_later(max(0.0, wait_s), self._tick)
            self._armed_us = due_us

    def _due_us(self) -> int:
        """What comes next; -1 for nothing."""
        several = self.engine.next_step_us(), self._link.due_us()
        return min((at_us for at_us in several if at_us is not None), default=-1)

    def _catch_up(self, early_us: int = 0) -> Micros:
        """Does all that is due; returns the time."""
        now_us = self.pace.now_us() + int(early_us * self.pace.factor)
        while 0 <= (due_us := self._due_us()) <= now_us:
            if self._link.due_us() == due_us:
                self._link.do_next()
            else:
                self._end_step(Micros(due_us), now_us)
            self._begin_fetches(due_us)
        self._last_us = max(self._last_us, now_us)
        return Micros(self._last_us)

    # Work

    def _begin_fetches(self, now_us: int) -> None:
        """The engine has made room for prompts whose KV lies elsewhere."""
        handed, size = self.engine.handed, self.engine.spec.block_size
        fetches, handed.fetches = handed.fetches, []
        for job, tokens in fetches:
            work = self._works.get(job.request)
            if work is not None:
                work.fetched = tokens // size * size
                self._link.fetch(tokens, now_us, partial(self._fetched, work))

    def _fetched(self, work: Work, now_us: int) -> None:
        if work.id not in self.engine.handed.fetching:
            return  # its client has gone
        assert work.handed_by is not None
        self.engine.land(work.id, Micros(now_us))
        self._note_admitted(now_us)
        engine, name = work.handed_by
        if engine in self._link.others:
            self._link.others[engine](name)

    def _keep(self, work: Work, now_us: int) -> None:
        """Its blocks stay for the time of the lease."""
        self._kept[work.kept_as] = work.id
        lease_us = int(LEASE_US * (self.pace.factor or 1.0))  # by the wall, as the gateway counts it
        self._link.at(now_us + lease_us, partial(self._let_go, work.kept_as))

    def _let_go(self, name: str, now_us: int) -> None:
        request = self._kept.pop(name, None)
        if request is not None:
            self.engine.let_go(request, Micros(now_us))
            self._note_admitted(now_us)

    def _end_step(self, at_us: Micros, now_us: int) -> None:
        engine, works = self.engine, self._works
        preemptions, prefilled = engine.preemptions, engine.prefill_tokens
        done = engine.step(at_us)
        self.steps += 1
        late_us = int((now_us - at_us) / (self.pace.factor or 1.0))
        self.late_steps += late_us > LATE_US
        self.late_us += late_us
        self.latest_us = max(self.latest_us, late_us)
        before_us, self._step_us = self._step_us, int(at_us)
        tokens = steady = 0
        for request, count in engine.generated():
            work = works.get(request)
            if work is None:
                continue
            if work.token_us == before_us:
                steady += 1
            else:
                self._unsteady(work, at_us)
            work.token_us = at_us
            tokens += 1
            work.answer.advance(count)
        for job, cached in done.finished:
            work = works.pop(job.request, None)
            if work is not None:
                steady += work.token_us == before_us
                tokens += 1
                self._finish(work, cached, at_us)
        self._accounts.step(tokens, steady, at_us - before_us, prefilled, engine.preemptions - preemptions)
        self._note_admitted(at_us)
        if self._publish and (done.stored or done.removed):
            self._publish(self._blocks.removed(done.removed) + self._blocks.stored(done.stored))
        self._retire()

    def _unsteady(self, work: Work, at_us: int) -> None:
        """A first token, or one after a preemption."""
        if work.first_us >= 0:
            self._accounts.resumed(at_us - work.token_us)
        else:
            work.first_us = at_us
            self._accounts.first_token(work)

    def _finish(self, work: Work, cached: int, at_us: int) -> None:
        if work.first_us < 0:
            self._unsteady(work, at_us)
        self._accounts.finished(work, cached + work.fetched, at_us)
        if work.kept_as:
            self._keep(work, at_us)
        self._retired.append(work.chain)
        work.answer.end()

    def _retire(self) -> None:
        """Forgets the blocks of requests that ended, once what they stored has been told."""
        if self._publish:
            for chain in self._retired:
                self._blocks.end(chain)
        self._retired.clear()

    def _note_admitted(self, at_us: int) -> None:
        """What the engine took from its queue since the last look."""
        fresh: list[Sequence] = []
        for order in reversed(self.engine.running):
            if order <= self._orders_seen:
                break
            fresh.append(self.engine.running[order])
        if not fresh:
            return
        self._orders_seen = fresh[0].order
        for sequence in fresh:
            work = self._works.get(sequence.job.request)
            if work is not None and work.scheduled_us < 0:
                work.scheduled_us, work.answer.cached = at_us, sequence.cached + work.fetched
                if work.kept_as and work.answer.transfer is not None:
                    work.answer.transfer["remote_prefill_cached_tokens"] = sequence.cached
                self._accounts.admitted(work, sequence.job.prompt_tokens)
