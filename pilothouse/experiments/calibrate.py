"""Asks a running engine the questions of `perf/sweep.py`, over its OpenAI API with prompts of token ids, and times it.

Every prompt is new to the engine, so nothing is found in its prefix cache but what a trial wants to be found. A trial is
asked several times, in another order each round, and its middle counts: other work on the machine comes and goes.
"""

import asyncio
from collections.abc import Callable
from statistics import fmean, median

import aiohttp
import msgspec

from pilothouse.core.errors import UpstreamError
from pilothouse.core.random_stream import Random, stream
from pilothouse.live.clock import Clock
from pilothouse.live.inspect import EngineClient, Listed
from pilothouse.perf.sweep import SHORT, Kind, Limits, Reading, Trial, affordable, plan

CONTROL_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 120.0
CONTEXT_UNKNOWN = 4096  # tokens, where the engine does not say how many it takes
FIRST_TOKEN_ID, LAST_TOKEN_ID = 300, 999  # ids that every vocabulary has and no special token is among
PROBE = 384  # tokens, to tell how slow the engine is
REPEATS_MAX = 7

Told = Callable[[str, float], None]  # what is being done, share of the time that is gone


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What `calibrate` was asked for."""

    url: str
    model: str  # "" = the only one that the engine has
    seconds: float  # for everything
    quick: bool
    batched_tokens: int  # of one step of the engine
    key: str | None = None


class Measured(msgspec.Struct, frozen=True):
    """What the engine answered."""

    model: str
    version: str  # "" = not told
    readings: list[Reading]
    seconds: float
    notes: list[str] = []


class Timed(msgspec.Struct, frozen=True):
    """One answer: when it was sent for, and when each token came [microseconds]."""

    sent_us: int
    tokens_us: list[int]


class Sweep:
    """One calibration; `run` once."""

    def __init__(self, session: aiohttp.ClientSession, asked: Asked, clock: Clock, told: Told) -> None:
        self._session, self._asked, self._clock, self._told = session, asked, clock, told
        self._luck = stream(int(clock.wall_s() * 1000), "calibrate")  # prompts of an earlier run are cached
        self._model, self._notes = asked.model, list[str]()
        self._began_us = 0
        self._took_us: dict[Trial, int] = {}

    async def run(self) -> Measured:
        """Raises UpstreamError if the engine does not answer, or answers differently than an engine would."""
        asked, client = self._asked, EngineClient(
            self._session, self._asked.url, "vllm", CONTROL_TIMEOUT_S, self._asked.key
        )  # fmt: skip
        self._began_us = self._clock.now_us()
        listed = self._choose(await client.models())
        self._model = listed.id
        limits = Limits(listed.max_model_len or CONTEXT_UNKNOWN, await self._kv_tokens(client), asked.batched_tokens)
        if not plan(limits, asked.quick):
            raise UpstreamError(asked.url, f"its context of {limits.context} tokens is too short to measure anything")
        self._told("warming up", 0.0)
        trials = plan(affordable(limits, asked.quick, await self._token_us(), asked.seconds), asked.quick)
        await self.ask(trials[-1])
        found = await self._rounds(trials)
        readings = [middle(trial, times) for trial, times in found.items() if times]
        seconds = (self._clock.now_us() - self._began_us) / 1e6
        return Measured(self._model, await version(client), readings, seconds, self._notes)

    async def _rounds(self, trials: list[Trial]) -> dict[Trial, list[Reading]]:
        """Round after round until the time is up. Trials beyond what the engine runs at once are given up."""
        found: dict[Trial, list[Reading]] = {trial: [] for trial in trials}
        order, most = list(trials), 1 << 30
        for number in range(REPEATS_MAX):
            for trial in order:
                left_us = self._asked.seconds * 1e6 - (self._clock.now_us() - self._began_us)
                if trial.sequences >= most or self._took_us.get(trial, 0) > left_us or left_us <= 0:
                    continue
                self._told(trial.title, 1 - left_us / self._asked.seconds / 1e6)
                before_us = self._clock.now_us()
                reading = await self.ask(trial) or await self.ask(trial)  # a client that was held up sees no steps
                self._took_us[trial] = self._clock.now_us() - before_us
                if reading is not None:
                    found[trial].append(reading)
                elif number == 0:
                    most = trial.sequences
                    self._notes.append(f"the engine does not run {most} sequences at once: fewer were measured")
            self._luck.shuffle(order)
        return found

    async def ask(self, trial: Trial) -> Reading | None:
        """None, if its sequences did not run together."""
        common = self._ids(trial.shared)
        if common:
            await self._send([*common, *self._ids(trial.prompt - len(common))], 1)
        prompts = [[*common, *self._ids(trial.prompt - len(common))] for _ in range(trial.sequences)]
        answers = await asyncio.gather(*(self._send(prompt, trial.output) for prompt in prompts))
        if trial.kind is Kind.PREFILL:
            return Reading(trial, answers[0].tokens_us[0] - answers[0].sent_us)
        return together(trial, answers)

    async def _send(self, prompt: list[int], output: int) -> Timed:
        body = {
            "model": self._model, "prompt": prompt, "max_tokens": output, "stream": True, "temperature": 0,
            "ignore_eos": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self._asked.key}"} if self._asked.key else {}
        url, tokens_us, rest = self._asked.url, list[int](), b""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        sent_us = self._clock.now_us()
        try:
            async with self._session.post(
                f"{url}/v1/completions", json=body, headers=headers, timeout=timeout
            ) as answer:
                if answer.status != 200:
                    said = (await answer.text())[:300]
                    raise UpstreamError(url, f"/v1/completions answered {answer.status}: {said}")
                async for part in answer.content.iter_any():
                    *lines, rest = (rest + part).split(b"\n")
                    now_us = self._clock.now_us()
                    tokens_us += [now_us] * sum(map(has_token, lines))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamError(url, f"/v1/completions: {type(error).__name__}: {error}") from error
        if not tokens_us or 2 * len(tokens_us) < output:
            raise UpstreamError(url, f"asked for {output} tokens one by one, and got {len(tokens_us)} parts")
        return Timed(sent_us, tokens_us)

    async def _token_us(self) -> float:
        """What one more prompt token takes, about."""
        few, more = Trial(Kind.PREFILL, 1, SHORT, 1), Trial(Kind.PREFILL, 1, PROBE, 1)
        await self.ask(few)
        first, second = await self.ask(few), await self.ask(more)
        assert first is not None and second is not None
        return max(0.0, second.us - first.us) / (PROBE - SHORT)

    def _ids(self, count: int) -> list[int]:
        return random_ids(self._luck, count)

    def _choose(self, listed: list[Listed]) -> Listed:
        wanted = self._asked.model
        chosen = [one for one in listed if (one.id == wanted if wanted else one.parent is None)]
        if len(chosen) != 1:
            names = ", ".join(one.id for one in listed) or "none"
            raise UpstreamError(self._asked.url, f"which model? It has: {names}. Choose one with --model")
        return chosen[0]

    async def _kv_tokens(self, client: EngineClient) -> int:
        try:
            metrics = await client.metrics()
        except UpstreamError:
            self._notes.append("the engine tells no metrics: its KV cache is taken to be large enough")
            return 0
        if metrics.running or metrics.waiting:
            self._notes.append("the engine was serving others while it was measured: step times are too long")
        return metrics.kv_blocks * metrics.block_size


async def calibrate(asked: Asked, told: Told) -> Measured:
    """Opens and closes what it needs."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await Sweep(session, asked, Clock(), told).run()


def together(trial: Trial, answers: list[Timed]) -> Reading | None:
    """Mean step while all sequences decoded; None, if there were not enough such steps."""
    begin_us = max(answer.tokens_us[0] for answer in answers)
    end_us = min(answer.tokens_us[-1] for answer in answers)
    steps, before = [], []
    for answer in answers:
        inside = [at_us for at_us in answer.tokens_us if begin_us <= at_us <= end_us]
        if len(set(inside)) > trial.steps // 2:  # tokens that arrive together tell nothing of the time between them
            steps.append((inside[-1] - inside[0]) / (len(inside) - 1))
            before.append(answer.tokens_us.index(inside[0]) + len(inside) / 2)
    if len(steps) < len(answers):
        return None
    grown = trial.sequences * fmean(before)
    distinct = trial.shared + trial.sequences * (trial.prompt - trial.shared) + grown
    return Reading(trial, median(steps), trial.sequences * trial.prompt + grown, distinct)


def middle(trial: Trial, readings: list[Reading]) -> Reading:
    """One reading for all repeats."""
    return Reading(
        trial,
        median(reading.us for reading in readings),
        median(reading.context for reading in readings),
        median(reading.distinct for reading in readings),
        len(readings),
    )


def has_token(line: bytes) -> bool:
    """Whether a line of the stream is an answer's part: neither its usage nor its end."""
    return line.startswith(b"data: {") and b'"choices":[]' not in line.replace(b" ", b"")


def random_ids(luck: Random, count: int) -> list[int]:
    return [luck.randint(FIRST_TOKEN_ID, LAST_TOKEN_ID) for _ in range(count)]


async def version(client: EngineClient) -> str:
    """What the engine calls itself; empty if it does not say."""
    try:
        told = msgspec.json.decode(await client.get("/version"))
    except (UpstreamError, msgspec.DecodeError):
        return ""
    return str(told.get("version", "")) if isinstance(told, dict) else ""
