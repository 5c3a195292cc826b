"""What a load run is told, and what is known of the server before the first request of it."""

from enum import StrEnum

import msgspec

from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.outcomes import Objectives


class Api(StrEnum):
    """The route that is asked."""

    CHAT = "chat"
    COMPLETIONS = "completions"


class Prompts(StrEnum):
    """What a prompt is made of."""

    TEXT = "text"
    TOKENS = "tokens"  # token ids: exact lengths, only for completions


PATHS = {Api.CHAT: "/v1/chat/completions", Api.COMPLETIONS: "/v1/completions"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to ask. `url` is http://host:port."""

    url: str
    model: str = ""  # empty = the workload's, or the only one that the server lists
    api: Api = Api.CHAT
    prompts: Prompts = Prompts.TEXT
    tokenizer: str = ""  # directory; empty = the root that the server lists, if it lies on this machine
    vocabulary: tuple[int, int] | None = None  # first and last token id to draw from
    key: str | None = None  # the server's API key
    label: str = "Measured"
    objectives: Objectives = Objectives()
    timeout_us: Micros = Micros(600 * SECOND)  # one request
    concurrency_max: int = 4096  # requests in flight; one more is not sent, and counted
    answer_bytes_max: int = 64 << 20
    ahead_max: int = 256  # requests made ready before their time
    ahead_bytes_max: int = 128 << 20
    told_bytes_max: int = 1 << 30  # of conversations, until their next turn
    memo_bytes_max: int = 256 << 20  # of blocks' texts


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes found."""

    model: str
    fixed_length: bool = False  # takes ignore_eos and min_tokens: answers are as long as planned
    token_ids: bool = False  # gives the ids of its answers, so that they can be sent back
    tokens_per_word: float = 1.0
    template_tokens: int = 0  # that a chat template adds to a first message
    turn_tokens: int = 0  # and to each further question with the answer before it
    id_first: int = 1000
    id_last: int = 30_000
    tokenizer: str = ""  # directory; empty = the root that the server lists, if it lies on this machine
    vocabulary: tuple[str, ...] = ()  # words to draw from; empty = the common ones
    emulated: bool = False  # it says of itself that it is no engine
    notes: list[str] = []
