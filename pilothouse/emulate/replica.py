"""One simulated engine on the wall clock.

Theory of operation. The engine says when its step under way ends; one timer waits for that, ends the step, and hands
every answer its new token in one pass. Steps end, for the engine, exactly when they are due, however late the timer
fires: lateness never adds up. Whatever arrives first ends the steps that are due, so the engine's time never goes back.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from pilothouse.core.units import BlockKey, Micros, RequestId
from pilothouse.emulate.accounts import Accounts
from pilothouse.emulate.errors import Refused
from pilothouse.emulate.kv_blocks import Chain, KvBlocks
from pilothouse.emulate.kv_publisher import Event
from pilothouse.emulate.metrics import EngineMetrics, Gauges
from pilothouse.emulate.pace import Pace
from pilothouse.emulate.work import Work
from pilothouse.sim.engine import Engine, Job, Sequence

EARLY_US = 500  # a step may end this much early: the event loop's timers count whole milliseconds
LATE_US = 10_000  # a step that ends later than this counts as late


class Replica:
    """Requests in, tokens out. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        pace: Pace,
        metrics: EngineMetrics,
        publish: Callable[[list[Event]], None] | None,
        queued_max: int | None = None,
    ) -> None:
        self.engine, self.pace, self._accounts = engine, pace, Accounts(metrics, pace)
        self.steps = self.late_steps = self.late_us = self.latest_us = 0  # for status, by the wall
        self._publish, self._queued_max = publish, queued_max
        self._blocks = KvBlocks(engine.spec.block_size)
        self._works: dict[RequestId, Work] = {}
        self._fetching: list[tuple[int, int, Work]] = []  # heap: (when the KV is here, tie, work)
        self._fetches = 0
        self._retired: list[Chain] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_us = -1
        self._last_us = self._step_us = 0  # the engine's latest time; the last step's end
        self._orders_seen = -1
        self._loop = asyncio.get_running_loop()

    # Requests

    def check_room(self) -> None:
        """Raises Refused when the queue is full."""
        if self._queued_max is not None and len(self.engine.waiting) + len(self._fetching) >= self._queued_max:
            self._accounts.rejected()
            what = "The engine is currently busy and cannot accept new requests. Please try again later or on a"
            raise Refused(f"{what} different instance.", 503)

    def submit(self, work: Work, fetch_us: int | None = None) -> None:
        """Takes a request. `fetch_us`: how long its prompt's KV takes to come from another engine."""
        now_us = self._catch_up()
        work.arrived_us = now_us
        self._works[work.id] = work
        if self._publish:
            self._blocks.begin(work.chain)
        if fetch_us is None:
            self._start(work, now_us)
        else:
            self._fetches += 1
            heappush(self._fetching, (now_us + fetch_us, self._fetches, work))
        self._arm()

    def cancel(self, work: Work) -> None:
        """Its client has gone."""
        if self._works.pop(work.id, None) is None:
            return
        work.cancelled = True
        now_us = self._catch_up()
        if work.started:
            self.engine.abort(work.id, now_us)
        self._accounts.aborted()
        self._retired.append(work.chain)
        if self.engine.next_step_us() is None:
            self._retire()
        self._arm()

    def local_blocks(self, keys: list[BlockKey]) -> int:
        """Leading blocks that are here."""
        return self.engine.store.match(keys, len(keys))[0]

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
        running = list(dict.fromkeys(w.lora for w in self._works.values() if w.lora and w.scheduled_us >= 0))
        waiting = list(dict.fromkeys(w.lora for w in self._works.values() if w.lora and w.scheduled_us < 0))
        return Gauges(
            load.running, load.waiting, len(self._fetching), load.kv_used_ratio, ",".join(running), ",".join(waiting)
        )

    def close(self) -> None:
        """Stops for good; whoever waits for an answer is somebody else's concern."""
        if self._timer is not None:
            self._timer.cancel()
        self._works.clear()

    # Time

    def _tick(self) -> None:
        self._timer, self._armed_us = None, -1
        self._catch_up(EARLY_US)
        self._arm()

    def _arm(self) -> None:
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
        step_us = self.engine.next_step_us()
        fetch_us = self._fetching[0][0] if self._fetching else None
        return min((at_us for at_us in (step_us, fetch_us) if at_us is not None), default=-1)

    def _catch_up(self, early_us: int = 0) -> Micros:
        """Does all that is due; returns the time."""
        now_us = self.pace.now_us() + int(early_us * self.pace.factor)
        while 0 <= (due_us := self._due_us()) <= now_us:
            if self._fetching and self._fetching[0][0] == due_us:
                work = heappop(self._fetching)[2]
                if not work.cancelled:
                    self._fetched(work, due_us)
            else:
                self._end_step(Micros(due_us), now_us)
        self._last_us = max(self._last_us, now_us)
        return Micros(self._last_us)

    # Work

    def _start(self, work: Work, now_us: int) -> None:
        answer, prompt = work.answer, work.answer.prompt
        output = work.chain.keys[len(prompt.keys) :]
        job = Job(work.id, prompt.keys, prompt.tokens, answer.plan.tokens, output)
        work.started = True
        self.engine.submit(job, Micros(now_us))
        self._note_admitted(now_us)

    def _fetched(self, work: Work, now_us: int) -> None:
        """The prompt's KV is here: it lies in the cache, so that all but the last block is a hit."""
        store, keys = self.engine.store, work.answer.prompt.keys
        held, idle = store.match(keys, len(keys))
        if len(keys) - held <= store.available - idle:
            node = store.hold(keys, held)
            store.take(len(keys) - held)
            store.release(store.name(node, keys, len(keys)), 0)
        else:
            work.fetched = 0  # no room: computed here after all
        self._start(work, now_us)

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
        self._accounts.finished(work, cached, at_us)
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
                work.scheduled_us, work.answer.cached = at_us, sequence.cached
                self._accounts.admitted(work, sequence.job.prompt_tokens)
