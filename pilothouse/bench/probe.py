"""What must be known before the load: is the server there, what does it serve, which options does it take, and how long
are our words in its tokens. All of it by asking, over the same connections that the load uses."""

import asyncio
from pathlib import Path

import aiohttp
import msgspec

from pilothouse.bench.answer import Answer
from pilothouse.bench.bodies import Bodies, Request, read_answer
from pilothouse.bench.prompts import WORDS, WordDrawer, text_json
from pilothouse.bench.settings import PATHS, Api, Prompts, Server, Settings
from pilothouse.core.errors import ConfigError, Problem, UpstreamError
from pilothouse.core.units import Micros, RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.inspect import EngineClient, Listed
from pilothouse.live.tokens.model_files import find_model_files
from pilothouse.live.tokens.tokenizer import load_tokenizer
from pilothouse.live.upstream import Pool
from pilothouse.workload.outcomes import Histogram
from pilothouse.workload.requests import Planned

SHORT, LONG = 32, 544  # words of the two probes
ANSWER_TOKENS = 2
LISTING_TIMEOUT_S = 10.0
SPECIAL_BELOW = 1000  # ids below are bytes, digits and special tokens in common vocabularies
WORDS_MAX = 4000
EMULATED = "emulated"  # begins `owned_by` of what an emulator lists


async def inspect(settings: Settings, wanted_model: str, pool: Pool, clock: Clock) -> Server:
    """Raises UpstreamError when nobody answers, ConfigError when the model is not served."""
    listed = await _list(settings)
    name, root = _choose(listed, settings.model, wanted_model)
    server = Server(model=name, emulated=any(model.owned_by.startswith(EMULATED) for model in listed))
    if settings.prompts is Prompts.TOKENS:
        server = _with_ids(server, settings, settings.tokenizer or root)
    else:
        server = _with_words(server, settings.tokenizer or root)
    probe = _Probe(settings, pool, clock)
    names = [model.id for model in listed]
    try:
        server = await probe.options(server)
    except UpstreamError as error:
        if not names or name in names:
            raise
        what = f"the server has no model {name!r}, it has: {', '.join(names)} ({error})"
        raise ConfigError([Problem("--model", what)]) from None
    if names and name not in names:
        note = f"the server lists {', '.join(names)}, and takes requests for {name} all the same"
        server = msgspec.structs.replace(server, notes=[*server.notes, note])
    return await probe.lengths(server) if settings.prompts is Prompts.TEXT else server


async def _list(settings: Settings) -> list[Listed]:
    async with aiohttp.ClientSession() as session:
        try:
            return await EngineClient(session, settings.url, "vllm", LISTING_TIMEOUT_S, settings.key).models()
        except UpstreamError as error:
            if "/v1/models answered 40" in str(error) and settings.model:
                return []  # a server that does not list; the first probe will tell
            raise


def _choose(listed: list[Listed], asked: str, planned: str) -> tuple[str, str | None]:
    """Name and root of the model."""
    roots = {model.id: model.root for model in listed}
    if asked:
        return asked, roots.get(asked)  # listed or not: some routers list names of their own
    if planned in roots:
        return planned, roots[planned]
    bases = [model.id for model in listed if model.parent is None]
    if len(bases) == 1:
        return bases[0], roots[bases[0]]
    what = f"the server has no model {planned!r}; choose one of: {', '.join(roots) or '(it lists none)'}"
    raise ConfigError([Problem("--model", what)])


def _with_ids(server: Server, settings: Settings, root: str | None) -> Server:
    """A range of ids that the model surely has."""
    first, last = settings.vocabulary or (server.id_first, server.id_last)
    if settings.vocabulary is None and root and Path(root).is_dir():
        size = find_model_files(root).model.get("vocab_size")
        if isinstance(size, int) and size > 2:
            first, last = min(SPECIAL_BELOW, size // 4), size * 9 // 10 - 1  # special tokens come last or first
    return msgspec.structs.replace(server, id_first=first, id_last=last)


def _with_words(server: Server, root: str | None) -> Server:
    """Words that are one token each, if the tokenizer lies on this machine."""
    if not root or not Path(root).is_dir():
        return server
    try:
        tokenizer = load_tokenizer(find_model_files(root).tokenizer, {}).tokenizer
    except ConfigError:
        return server
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [token[1:] for token, _ in vocabulary if token[:1] in "Ġ▁" and token[1:].isascii() and token[1:].isalpha()]
    words = [word for word in words if word.islower()][:WORDS_MAX]
    text = "".join(" " + word for word in words)
    if len(words) < 100 or len(tokenizer.encode(text, add_special_tokens=False).ids) != len(words):
        return server
    return msgspec.structs.replace(server, vocabulary=tuple(words))


class _Probe:
    """Small requests, one after the other."""

    def __init__(self, settings: Settings, pool: Pool, clock: Clock) -> None:
        self._settings, self._pool, self._clock = settings, pool, clock
        self._count = 0

    async def options(self, server: Server) -> Server:
        """The most that the server takes: fixed lengths, ids of answers. Raises when it takes nothing."""
        answer = None
        for fixed, ids in ((True, True), (True, False), (False, False)):
            if ids and self._settings.prompts is not Prompts.TOKENS:
                continue
            tried = msgspec.structs.replace(server, fixed_length=fixed, token_ids=ids)
            answer = await self._ask(tried, self._content(server, SHORT))
            if not answer.error:
                told = ids and bool(read_answer(answer.stream)[1])
                notes = [] if fixed else ["the server does not take ignore_eos and min_tokens: answers may end early"]
                emulated = server.emulated or answer.emulated  # a gateway may list models as its own
                return msgspec.structs.replace(tried, token_ids=told, notes=notes, emulated=emulated)
            if not answer.error.startswith("HTTP 4"):
                break
        assert answer is not None
        what = f"{PATHS[self._settings.api]}: {answer.error}"
        if self._settings.prompts is Prompts.TOKENS:
            what += f" (asked with token ids {server.id_first} to {server.id_last}; --vocab or --tokenizer set another range)"
        raise UpstreamError(self._settings.url, what)

    async def lengths(self, server: Server) -> Server:
        """Tokens of our words and of the chat template, from the prompt tokens of three probes."""
        counts = [await self._prompt_tokens(server, self._content(server, words)) for words in (SHORT, LONG)]
        short, long = counts
        if short is None or long is None:
            note = "the server does not count prompt tokens: one token per word is assumed"
            return msgspec.structs.replace(server, notes=[*server.notes, note])
        ratio = (long - short) / (LONG - SHORT)
        if ratio <= 0:
            raise UpstreamError(self._settings.url, f"counts {short} tokens for {SHORT} words, {long} for {LONG}")
        template = max(0, round(short - SHORT * ratio))
        turn = 0
        if self._settings.api is Api.CHAT:
            words = self._words(server, SHORT)
            content = self._content(server, SHORT) + b',{"role":"assistant","content":%b}' % text_json(words)
            content += b',{"role":"user","content":%b}' % text_json(words)
            three = await self._prompt_tokens(server, content)
            turn = max(0, round((three or 0) - 3 * SHORT * ratio) - template)
        note = f"prompts are text: {ratio:.3f} tokens per word as the server counts, {template} of the template"
        notes = server.notes if ratio == 1.0 else [*server.notes, note]
        return msgspec.structs.replace(
            server, tokens_per_word=ratio, template_tokens=template, turn_tokens=turn, notes=notes
        )

    async def _prompt_tokens(self, server: Server, content: bytes) -> int | None:
        answer = await self._ask(server, content)
        if answer.error:
            raise UpstreamError(self._settings.url, f"a first request failed: {answer.error}")
        return answer.usage.prompt_tokens

    def _words(self, server: Server, count: int) -> bytes:
        """Drawn from all the words there are, so that the ratio is that of the load."""
        self._count += 1
        return WordDrawer(self._count, server.vocabulary or WORDS, 1.0).draw("probe", count)

    def _content(self, server: Server, words: int) -> bytes:
        if self._settings.prompts is Prompts.TOKENS:
            return b",".join([b"%d,%d" % (server.id_first, server.id_last)] * (words // 2))  # is the whole range known?
        text = self._words(server, words)
        return b'{"role":"user","content":%b}' % text_json(text) if self._settings.api is Api.CHAT else text

    async def _ask(self, server: Server, content: bytes) -> Answer:
        planned = Planned(RequestId("probe"), Micros(0), [], 0, ANSWER_TOKENS, ANSWER_TOKENS)
        bodies = Bodies(self._settings, server, None, self._pool.authority)
        request: Request = bodies.made(planned, content, keeps=True)
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        now_us = self._clock.now_us

        def ended(answer: Answer) -> None:
            if not done.done():
                done.set_result(answer)

        answer = Answer(request, now_us(), Histogram(), ended, now_us, self._settings.answer_bytes_max)
        self._pool.send(answer, request.head, request.body)
        try:
            return await done
        finally:
            answer.cancel("cancelled")  # nothing to do if it has ended
