"""One inference engine as vLLM v1 schedules it: continuous batching over paged KV with a prefix cache. No I/O.

Each step: every decoding sequence gets its tokens; prefills already begun go on, in chunks, with what is left of the
token budget; then the queue is admitted, first come first served, as far as budget, sequence slots and blocks reach.
When decoding needs a block and there is none, the sequence admitted last loses its blocks and starts over.

Decoding sequences advance evenly (`strides.py`), so each is a few numbers relative to the step counter, and the batch is
a few sums: a step costs the same whatever the batch. While the batch cannot change, many steps are one (`jump.py`).
Time is kept in picoseconds and told in microseconds, rounded up.
"""

from collections import deque
from heapq import heappop, heappush

import msgspec

from pilothouse.core.units import Micros, RequestId
from pilothouse.perf.speculation import Speculation
from pilothouse.perf.step_time import PS_PER_US, StepClock, StepTime
from pilothouse.sim.admission import Admission, WholePrompt
from pilothouse.sim.blocks import BlockStore
from pilothouse.sim.gaps import NOBODY, Gaps
from pilothouse.sim.handed import Handed
from pilothouse.sim.jobs import Done, Job, Load, Sequence
from pilothouse.sim.jump import Jump
from pilothouse.sim.strides import Strides
from pilothouse.sim.tiers import Tiers, TierSpec


class EngineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine and its limits."""

    step_time: StepTime
    kv_blocks: int
    block_size: int = 16  # tokens
    batched_tokens_max: int = 8192  # per step
    sequences_max: int = 1024
    admission: Admission = WholePrompt()
    steps_ahead: int = 0  # 1 = the next step's batch is fixed while this one runs, so who comes now waits for both
    macro_steps: bool = True  # off: walk through every step; slower, with the same result
    prefix_cache: bool = True  # off: nothing is ever reused, nor reported
    speculation: Speculation | None = None  # its cost is in `step_time`
    tiers: list[TierSpec] = []  # below HBM, fastest first

    def __post_init__(self) -> None:
        if self.kv_blocks < 1 or self.block_size < 1 or self.sequences_max < 1:
            raise ValueError("kv_blocks, block_size and sequences_max must be at least 1")
        each = 1 if self.speculation is None else 1 + self.speculation.draft_tokens
        if self.batched_tokens_max < self.sequences_max * each:
            raise ValueError(f"batched_tokens_max must be at least sequences_max x {each}, the tokens of each decode")


class Engine:
    """`submit` at any time; `step(now_us)` exactly when `next_step_us` says. Submissions of one moment come first."""

    def __init__(self, spec: EngineSpec, *, reporting: bool = False, tiers: Tiers | None = None) -> None:
        self.spec, self.tiers, self._reporting = spec, tiers, reporting
        self.store = BlockStore(spec.kv_blocks, reporting=reporting or tiers is not None)
        self.steps = self.preemptions = 0  # for statistics
        self.gaps: Gaps | None = None  # who counts the time between tokens
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}  # by order of admission
        self.handed = Handed(self.store)
        self.strides = Strides(spec.speculation, spec.block_size)
        self._clock = StepClock(spec.step_time, self.strides.parts)
        self._prefilling: list[Sequence] = []
        self._decoding = self._sum_context = self._advance = 0  # sequences; their contexts, and that per step [parts]
        self._decodes = self._parts = 0  # steps of single sequences so far, and what these gave [parts]
        self._decoding_of: dict[int, int] = {}  # group -> decoding sequences; those of group 0 are not counted
        self._aborted: list[RequestId] = []  # leave with the step under way
        self._needs = [0] * self.strides.period  # blocks that decoding sequences need, by the step modulo the period
        self._finishes: list[tuple[int, int]] = []  # heap: (step, order); stale where the order is gone
        self._orders = 0
        self._stuck = False  # the head of the queue was refused, and will be until somebody leaves or prefills
        self._jump: Jump | None = None
        self._chunks: list[tuple[Sequence, int]] = []
        self._stretch = 0  # steps under way; 0 = idle
        self._start_ps = self._end_ps = 0
        self._granted = False  # decoding sequences have the blocks that the step under way fills

    def next_step_us(self) -> Micros | None:
        """When `step` is due; None while idle."""
        return Micros(-(-self._end_ps // PS_PER_US)) if self._stretch else None

    def fits(self, job: Job) -> bool:
        """Whether the engine could ever serve this, alone."""
        blocks = -(-(job.prompt_tokens + job.output_tokens + self.strides.overshoot) // self.spec.block_size)
        return self.spec.admission.room(blocks, blocks) <= self.spec.kv_blocks

    def submit(self, job: Job, now_us: Micros, *, late: bool = False) -> None:
        """`late`: behind the steps that end at this moment, which have ended; else before them."""
        assert self.fits(job), f"request {job.request} can never fit"
        if not self.spec.prefix_cache:
            job = msgspec.structs.replace(job, blocks=[], output_blocks=[])
        stride = self.strides.of(job.constrained)
        sequence = Sequence(job, job.prompt_tokens, group=job.group, stride=stride, handed=job.handed)
        self.waiting.append(sequence)
        self._join(sequence, now_us, late, wanted=not self._stuck)

    def _join(self, sequence: Sequence, now_us: Micros, late: bool, *, wanted: bool) -> None:
        """It can be scheduled from the next step on that is not planned yet."""
        if not self._stretch:
            self._schedule(now_us * PS_PER_US)
        else:
            sequence.eligible = self.steps + self._nth(now_us + late) + self.spec.steps_ahead
            if wanted:
                self._cut(now_us + late, self.spec.steps_ahead)

    def land(self, request: RequestId, now_us: Micros, *, late: bool = False) -> None:
        """What a handed-over request was waiting for is here."""
        self._join(self.handed.land(request), now_us, late, wanted=True)

    def let_go(self, request: RequestId, now_us: Micros, *, late: bool = False) -> None:
        """The blocks of a prompt computed for somebody else are not needed any more."""
        self.handed.let_go(request)
        self._make_room(now_us, late)

    def _make_room(self, now_us: Micros, late: bool) -> None:
        """Blocks came free between two steps: who waits for them is looked at when the step under way ends."""
        self._stuck = False
        if self._stretch:
            self._cut(now_us + late)
        elif self.waiting:
            self._schedule(now_us * PS_PER_US)

    def abort(self, request: RequestId, now_us: Micros, *, late: bool = False) -> None:
        """Nobody wants the answer any more: out of the queue at once, out of the batch when the step under way ends."""
        for sequence in self.waiting:
            if sequence.job.request == request:
                self.waiting.remove(sequence)
                self._stuck = False
                break
        else:
            if self.handed.drop(request):
                return self._make_room(now_us, late)
            self._aborted.append(request)
        self._cut(now_us + late)

    def abandon(self, now_us: Micros) -> None:
        """All connections are gone: it goes on, but nobody meets the gaps of what it has."""
        if self.gaps is not None and self._jump is not None and self._stretch:
            met = self._under_way((now_us - 1) * PS_PER_US + 1) - 1
            if met:
                self.gaps.decoded(self._jump, met, self._jump.span_ps(met), self._decoding, self._decoding_of)
        self._decoding_of = {NOBODY: self._decoding}
        for sequence in [*self.waiting, *self.running.values(), *self.handed.sequences]:
            sequence.group = NOBODY

    def set_pace(self, step_time: StepTime, now_us: Micros) -> None:
        """Other step times, from the next step on."""
        self._cut(now_us)
        self._clock = StepClock(step_time, self.strides.parts)

    @property
    def clock(self) -> StepClock:
        """What its steps take at present."""
        return self._clock

    def progress(self, now_us: Micros) -> int:
        """Steps that have ended by now and are not in `steps` yet, because a jump is under way."""
        return self._under_way(now_us * PS_PER_US + 1) - 1 if self._jump is not None and self._stretch else 0

    def generated(self) -> list[tuple[RequestId, int]]:
        """Output tokens so far of every sequence that decodes, as of the last step."""
        return [(s.job.request, s.generated + self._grown(s)) for s in self.running.values() if s.since >= 0]

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that the step under way computes."""
        return sum(tokens for _, tokens in self._chunks)

    def load(self, now_us: Micros) -> Load:
        """As of now, the step under way included."""
        used, done = self.spec.kv_blocks - self.store.available, 0
        if self._jump is not None:
            nth = self._under_way(now_us * PS_PER_US + 1)
            used, done = used + self._jump.blocks(nth), max(0, nth - 1)
        told = self.strides.told(self._decodes + done * self._decoding, self._parts + done * self._advance)
        return Load(len(self.running), len(self.waiting) + len(self.handed), used / self.spec.kv_blocks, *told)

    def step(self, now_us: Micros) -> Done:
        """Ends what is under way and begins what comes next."""
        assert now_us == self.next_step_us(), f"step at {now_us}, due at {self.next_step_us()}"
        done, stretch, self._granted = Done(), self._stretch, False
        if self.gaps is not None and self._decoding:
            span_ps = self._end_ps - self._start_ps
            self.gaps.decoded(self._jump, stretch, span_ps, self._decoding, self._decoding_of)
        if self._jump is not None:
            self.store.take(self._jump.blocks(stretch))
        self.steps += stretch
        self._sum_context += self._advance * stretch
        self._decodes += self._decoding * stretch
        self._parts += self._advance * stretch
        self._finish_due(done)
        for sequence, tokens in self._chunks:
            sequence.computed += tokens
            if sequence.computed == sequence.target:
                self._begin_decoding(sequence, done)
        if self._aborted:
            self._drop_aborted()
        self._stretch = 0
        if self.store.reporting:
            self._report(done)
        self._schedule(self._end_ps)
        return done

    def _report(self, done: Done) -> None:
        """What has changed since the step before ended."""
        stored, removed = self.store.collect()
        if self._reporting:
            done.stored, done.removed = stored, removed
        if self.tiers is not None:
            whole = [sequence.job.blocks for sequence, _ in self._chunks if sequence.computed == sequence.target]
            changes = self.tiers.keep(stored, whole)
            if self._reporting:
                done.lower = changes

    # The next step

    def _schedule(self, now_ps: int) -> None:
        """Puts the next step under way, or as many as will be alike; nothing if there is nothing to do."""
        before, self._granted = self.preemptions, False
        while self.store.available < self._needed_now():
            self._preempt()
        gains = self._needed_now()
        if gains:
            self.store.take(gains)
        self._granted, self._chunks = True, []
        budget = self.spec.batched_tokens_max - self._decoding * (1 + self.strides.draft_tokens)
        for sequence in list(self._prefilling):
            if budget and sequence.order in self.running:
                budget -= self._continue(sequence, budget)
        preempted = self.preemptions > before
        if self.handed.landed and not preempted:
            budget = self._begin_landed(budget)
        if self.waiting and not preempted and not self._stuck:
            self._admit(budget)
        self._start_ps = now_ps
        if self._chunks:
            self._jump, self._stretch = None, 1
            self._end_ps = now_ps + self._mixed_ps()
        elif self._decoding:
            alike = not preempted and self._steady()
            held = self.spec.kv_blocks - self.store.available - gains
            self._decode_only(now_ps, held, gains, alike and self.spec.macro_steps)
        else:
            assert not self.waiting or self.handed.kept or self.handed.fetching, "requests wait at an idle engine"

    def _mixed_ps(self) -> int:
        tokens = squares = 0
        for sequence, count in self._chunks:
            tokens += count
            squares += count * (2 * sequence.computed + count)
        used = (self.spec.kv_blocks - self.store.available) * self.spec.block_size
        fixed_ps = self._clock.fixed_ps(self._decoding, len(self._chunks), tokens, squares)
        return fixed_ps + self._clock.context_ps(self._sum_context, used)

    def _decode_only(self, now_ps: int, held: int, gains: int, alike: bool) -> None:
        """Nobody prefills. `alike`: nor can anybody start before somebody ends, so all steps until then are alike.
        `held`: blocks in use before this step took its `gains`."""
        self._jump, self._stretch = None, 1
        must_tell = bool(self.store.removed)  # evicted for this very step, so due when it ends and not later
        most = self._next_finish() - self.steps if alike and not must_tell else 1
        if most > 1:
            now = self.steps % self.strides.period
            period = self._needs[now:] + self._needs[:now]
            room = self.store.quiet() if self.store.reporting else self.store.available
            if room >= period[1 % len(period)]:
                sums = self._decoding, self._advance, self._sum_context
                jump = Jump(self._clock, *sums, held, period, self.spec.block_size)
                most = jump.steps_within(room + gains, most)
                self.store.private -= gains  # taken when the jump ends, with the rest
                self._jump, self._stretch = jump, most
                self._end_ps = now_ps + jump.span_ps(most)
                return
        used = (self.spec.kv_blocks - self.store.available) * self.spec.block_size
        self._end_ps = now_ps + self._clock.fixed_ps(self._decoding) + self._clock.context_ps(self._sum_context, used)

    def _cut(self, now_us: int, ahead: int = 0) -> None:
        """A jump ends with the step that is under way, or `ahead` steps later if it lasts so long."""
        if self._jump is not None and self._stretch:
            self._stretch = min(self._stretch, self._nth(now_us) + ahead)
            self._end_ps = self._start_ps + self._jump.span_ps(self._stretch)

    def _nth(self, now_us: int) -> int:
        """Which step of those under way runs at this time, counted from 1."""
        return 1 if self._jump is None else self._under_way((now_us - 1) * PS_PER_US + 1)

    def _under_way(self, at_ps: int) -> int:
        """Which step of the jump is the first to end at this time or later, counted from 1."""
        assert self._jump is not None
        return self._jump.steps_lasting(at_ps - self._start_ps, self._stretch)

    def _steady(self) -> bool:
        """Whether whoever is first in line waits for room, and so until somebody ends: not for a step that is his."""
        landed, waiting = self.handed.landed, self.waiting
        if landed and landed[0].eligible > self.steps:
            return False
        return not waiting or (self.spec.admission.steady and waiting[0].eligible <= self.steps)

    # Sequences

    def _admit(self, budget: int) -> None:
        size, store = self.spec.block_size, self.store
        idle_now = not self._decoding and not self._chunks  # nothing runs ahead of an idle engine
        while self.waiting and budget > 0 and len(self.running) < self.spec.sequences_max:
            sequence = self.waiting[0]
            if sequence.eligible > self.steps and not idle_now:
                return
            keys, target = sequence.job.blocks, sequence.target
            below, limit = 0, min(len(keys), (target - 1) // size)
            hits, idle = store.match(keys, limit)
            if self.tiers is not None and not sequence.handed:
                below = self.tiers.beyond(keys, hits, limit)
            tokens = target - hits * size if sequence.handed or below else min(budget, target - hits * size)
            prompt, chunk = -(-target // size) - hits, -(-(hits * size + tokens) // size) - hits
            if self.spec.admission.room(prompt, chunk) > store.available - idle:
                self._stuck = self.spec.admission.steady and self.spec.macro_steps
                return
            self.waiting.popleft()
            sequence.node = store.hold(keys, hits)
            sequence.computed = hits * size
            if sequence.order < 0:
                sequence.cached = sequence.computed + below * size
            if sequence.handed:
                self.handed.fetch(sequence, prompt)
                continue
            if self.tiers is not None and below:
                self.handed.load(sequence, prompt, (hits + below) * size)
                self.tiers.load(sequence.job.request, keys[hits : hits + below])
                continue
            sequence.private = self.spec.admission.reserve(prompt, chunk)
            store.take(sequence.private)
            self._enter(sequence, tokens)
            budget -= tokens

    def _enter(self, sequence: Sequence, tokens: int) -> None:
        """It joins the batch, with its first chunk."""
        sequence.order, self._orders = self._orders, self._orders + 1
        self.running[sequence.order] = sequence
        self._prefilling.append(sequence)
        self._compute(sequence, tokens)

    def _begin_landed(self, budget: int) -> int:
        """Those whose KV is here join the batch; returns what is left of the budget."""
        idle_now, landed = not self._decoding and not self._chunks, self.handed.landed
        while landed and budget > 0 and len(self.running) < self.spec.sequences_max:
            if landed[0].eligible > self.steps and not idle_now:
                break
            sequence = landed.popleft()
            tokens = min(budget, sequence.target - sequence.computed)
            self._enter(sequence, tokens)
            budget -= tokens
        return budget

    def _continue(self, sequence: Sequence, budget: int) -> int:
        """The next chunk of a prefill; returns its tokens, 0 if it lost its place for want of blocks."""
        assert sequence.node is not None
        tokens = min(budget, sequence.target - sequence.computed)
        needed = -(-(sequence.computed + tokens) // self.spec.block_size) - sequence.node.end - sequence.private
        if needed > 0:
            while self.store.available < needed:
                self._preempt()
                if sequence.order not in self.running:
                    return 0
            self.store.take(needed)
            sequence.private += needed
        self._compute(sequence, tokens)
        return tokens

    def _compute(self, sequence: Sequence, tokens: int) -> None:
        """Schedules a chunk. Others can use its blocks from this step on, as in the engine."""
        assert sequence.node is not None
        self._stuck = False
        self._chunks.append((sequence, tokens))
        full = min((sequence.computed + tokens) // self.spec.block_size, len(sequence.job.blocks))
        if full > sequence.node.end:
            before = sequence.node.end
            sequence.node = self.store.name(sequence.node, sequence.job.blocks, full)
            sequence.private -= full - before

    def _begin_decoding(self, sequence: Sequence, done: Done) -> None:
        """Its prefill is over and has given one token."""
        self._prefilling.remove(sequence)
        job, steps = sequence.job, self.steps
        if not sequence.generated:
            done.first.append(job.request)
        elif self.gaps is not None:
            self.gaps.resumed(self._end_ps - sequence.told_ps, sequence.group)
        sequence.generated += 1
        sequence.since = steps
        self._count(sequence, 1)
        if sequence.generated == job.output_tokens:
            self._finish(sequence, done)
        else:
            left = self.strides.steps(sequence.stride, job.output_tokens - sequence.generated)
            heappush(self._finishes, (steps + left, sequence.order))

    def _finish_due(self, done: Done) -> None:
        while self._finishes and self._finishes[0][0] <= self.steps:
            sequence = self.running.get(heappop(self._finishes)[1])
            if sequence is not None:
                self._finish(sequence, done)

    def _finish(self, sequence: Sequence, done: Done) -> None:
        job = sequence.job
        if job.output_blocks:
            self._name_output(sequence)
        self._leave(sequence, done=True)
        done.finished.append((job, sequence.cached))

    def _name_output(self, sequence: Sequence) -> None:
        """The answer's full blocks can be asked for by the conversation's next request."""
        assert sequence.node is not None
        keys = sequence.job.blocks + sequence.job.output_blocks
        full = min((sequence.target + self._grown(sequence)) // self.spec.block_size, len(keys))
        if full > sequence.node.end:
            sequence.node = self.store.name(sequence.node, keys, full)

    def _leave(self, sequence: Sequence, *, done: bool = False) -> None:
        """Takes a sequence off the batch; its blocks become cached, or are kept for who will fetch them."""
        assert sequence.node is not None
        self._stuck = False
        del self.running[sequence.order]
        private = sequence.private
        if sequence.since >= 0:
            context = sequence.target + self._grown(sequence, self._granted)
            private = -(-context // self.spec.block_size) - sequence.node.end
            self._count(sequence, -1)
        else:
            self._prefilling.remove(sequence)
        if sequence.job.kept and done:
            self.handed.kept[sequence.job.request] = (sequence.node, private)
        else:
            self.store.release(sequence.node, private)

    def _drop_aborted(self) -> None:
        for sequence in [s for s in self.running.values() if s.job.request in self._aborted]:
            self._leave(sequence)
        self._aborted.clear()

    def _preempt(self) -> None:
        """The sequence admitted last gives up its blocks; it goes back to the head of the queue and starts over."""
        sequence = self.running[next(reversed(self.running))]
        self._leave(sequence)
        if sequence.since >= 0:
            sequence.generated += self._grown(sequence)
            sequence.told_ps = self._end_ps
        sequence.target = sequence.job.prompt_tokens + sequence.generated
        sequence.since, sequence.private, sequence.node, sequence.computed = -1, 0, None, 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _count(self, sequence: Sequence, sign: int) -> None:
        """Into the sums of what decodes (1), or out of them (-1)."""
        self._decoding += sign
        self._advance += sign * sequence.stride
        self._sum_context += sign * self.strides.context(sequence, self.steps)
        if sequence.group:
            self._decoding_of[sequence.group] = self._decoding_of.get(sequence.group, 0) + sign
        self.strides.count(self._needs, sequence, sign)

    def _grown(self, sequence: Sequence, more: int = 0) -> int:
        """Tokens that it has got since it began to decode, or will have after so many steps `more`."""
        return self.strides.tokens(sequence.stride, self.steps - sequence.since + more)

    def _needed_now(self) -> int:
        """Blocks that this step's decodes need."""
        return self._needs[self.steps % self.strides.period]

    def _next_finish(self) -> int:
        """The step at which the next decoding sequence ends."""
        while self._finishes[0][1] not in self.running:
            heappop(self._finishes)
        return self._finishes[0][0]
