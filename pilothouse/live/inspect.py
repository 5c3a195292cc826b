"""Asking an engine what it is: its models, its KV cache, where it publishes KV events, and how busy it is."""

from math import isfinite
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from pilothouse.core.errors import UpstreamError
from pilothouse.wire.kv_events import KvEventError, Source, parse_sources

ANSWER_BYTES_MAX = 4 << 20
METRICS_BYTES_MAX = 1 << 20  # vLLM's are 50 kB; reading a megabyte already takes a tenth of a second
MODELS_MAX = 256  # names that one engine may list
COUNT_MAX = 1_000_000_000  # of anything: beyond it an engine talks nonsense


class Names(msgspec.Struct, frozen=True):
    """What an engine calls its metrics."""

    running: str
    waiting: str
    kv_used: str
    prompt_tokens: str  # counter of prompt tokens that were looked up in the prefix cache
    hit_tokens: str  # counter of those found there
    drafted: str = ""  # counter of tokens drafted by speculative decoding; "" = it counts none
    accepted: str = ""  # counter of those accepted


NAMES = {
    "vllm": Names(
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:spec_decode_num_draft_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_total",
    ),
    "sglang": Names(
        "sglang:num_running_reqs",
        "sglang:num_queue_reqs",
        "sglang:token_usage",
        "sglang:prompt_tokens_total",
        "sglang:cached_tokens_total",
    ),
}
CACHE_CONFIG = "vllm:cache_config_info"
STARTED = "process_start_time_seconds"


class Metrics(msgspec.Struct, frozen=True):
    """One scrape. Sums over the data-parallel ranks of the engine; the KV ratio is their mean."""

    running: int
    waiting: int
    kv_used_ratio: float
    computed_tokens: float  # prompt tokens that had to be computed since the engine started
    started_s: float  # when the process started, Unix time; 0 = not told
    block_size: int  # tokens; 0 = not told
    kv_blocks: int  # usable blocks; 0 = not told
    hash_algorithm: str  # "" = not told
    prefix_caching: bool
    cache_dtype: str = ""  # "" = not told, "auto" = the model's
    drafted_tokens: float = 0.0  # by speculative decoding since the engine started
    accepted_tokens: float = 0.0  # of those
    speculates: bool = False  # it counts drafts, which engines without speculation do not


class Listed(msgspec.Struct, frozen=True):
    """One entry of an engine's /v1/models."""

    id: str
    root: str | None = None
    parent: str | None = None  # set for an adapter: the model it adapts
    max_model_len: int | None = None
    owned_by: str = ""


class Models(msgspec.Struct, frozen=True):
    """An engine's /v1/models."""

    data: list[Listed]


def parse_metrics(text: str, engine: str) -> Metrics:
    """Reads the few families needed out of an engine's metrics text. Raises ValueError if it is not metrics."""
    names = NAMES[engine]
    wanted = (*filter(None, msgspec.structs.astuple(names)), CACHE_CONFIG, STARTED)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(wanted))
    values: dict[str, list[float]] = {}
    configs: list[dict[str, str]] = []
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            values.setdefault(sample.name, []).append(float(sample.value))
            if sample.name == CACHE_CONFIG:
                configs.append(sample.labels)
    if names.running not in values:
        raise ValueError(f"no {names.running} among its metrics")
    if not all(map(isfinite, (value for column in values.values() for value in column))):
        raise ValueError("a value is not finite")
    used = values.get(names.kv_used, [0.0])
    config = configs[0] if configs else {}
    return Metrics(
        running=_count(sum(values[names.running])),
        waiting=_count(sum(values.get(names.waiting, []))),
        kv_used_ratio=min(1.0, max(0.0, sum(used) / len(used))),
        computed_tokens=sum(values.get(names.prompt_tokens, [])) - sum(values.get(names.hit_tokens, [])),
        started_s=max(values.get(STARTED, [0.0])),
        block_size=_int(config.get("block_size")),
        kv_blocks=_count(sum(max(0, _int(c.get("num_gpu_blocks")) - 1) for c in configs)),  # block 0 is never used
        hash_algorithm=config.get("prefix_caching_hash_algo", ""),
        prefix_caching=config.get("enable_prefix_caching", "True") == "True",
        cache_dtype=config.get("cache_dtype", ""),
        drafted_tokens=sum(values.get(names.drafted, [])),
        accepted_tokens=sum(values.get(names.accepted, [])),
        speculates=names.drafted in values,
    )


def drafts_since(before: Metrics | None, now: Metrics) -> tuple[int, int]:
    """Tokens drafted and accepted between two scrapes; after a restart, since then."""
    if before is None:
        return 0, 0
    fewer = now.drafted_tokens < before.drafted_tokens
    if now.started_s != before.started_s or (fewer and not now.started_s):
        return _count(now.drafted_tokens), _count(now.accepted_tokens)
    drafted, accepted = now.drafted_tokens - before.drafted_tokens, now.accepted_tokens - before.accepted_tokens
    return _count(drafted), _count(accepted)


class NoSuchRoute(UpstreamError):
    """The engine does not know the path: it will not at the next time either."""


class EngineClient:
    """The control requests to one engine; never the data path. Raises UpstreamError."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, engine: str, timeout_s: float, key: str | None = None
    ) -> None:
        self._session, self._url, self._engine = session, url, engine
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def healthy(self) -> bool:
        try:
            await self.get("/health")
        except UpstreamError:
            return False
        return True

    async def metrics(self) -> Metrics:
        body = await self._request("GET", "/metrics", None, METRICS_BYTES_MAX)
        try:
            return parse_metrics(body.decode(), self._engine)
        except (ValueError, KeyError) as error:
            raise UpstreamError(self._url, f"/metrics cannot be read: {error}") from error

    async def models(self) -> list[Listed]:
        try:
            models = msgspec.json.decode(await self.get("/v1/models"), type=Models).data
        except msgspec.DecodeError as error:
            raise UpstreamError(self._url, f"/v1/models cannot be read: {error}") from error
        if len(models) > MODELS_MAX:
            raise UpstreamError(self._url, f"/v1/models lists {len(models)} names, more than {MODELS_MAX}")
        return models

    async def kv_sources(self) -> list[Source]:
        """Empty when the engine has no such route or publishes nothing."""
        try:
            return parse_sources(await self.get("/kv_event_sources"), urlsplit(self._url).hostname or "")
        except (UpstreamError, KvEventError):
            return []

    async def version(self) -> str:
        """ "" when the engine has no such route."""
        return str((await self._told("/version")).get("version") or "")

    async def server_info(self) -> dict[str, Any]:
        """How it was launched; empty when it does not tell, as vLLM without VLLM_SERVER_DEV_MODE=1."""
        if self._engine == "sglang":
            return await self._told("/server_info") or await self._told("/get_server_info")  # the latter is older
        return await self._told("/server_info?config_format=json")

    async def _told(self, path: str) -> dict[str, Any]:
        try:
            told = msgspec.json.decode(await self.get(path))
        except NoSuchRoute:
            return {}
        except msgspec.DecodeError as error:
            raise UpstreamError(self._url, f"{path} cannot be read: {error}") from error
        return told if isinstance(told, dict) else {}

    async def get(self, path: str) -> bytes:
        return await self._request("GET", path, None)

    async def post(self, path: str, body: bytes) -> bytes:
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: bytes | None, bytes_max: int = ANSWER_BYTES_MAX) -> bytes:
        headers = self._headers | ({"content-type": "application/json"} if body is not None else {})
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers, timeout=self._timeout
            ) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > bytes_max:
                        raise UpstreamError(self._url, f"{path}: the answer is longer than {bytes_max} bytes")
                if response.status in (404, 405):
                    raise NoSuchRoute(self._url, f"{path} answered {response.status}")
                if response.status != 200:
                    raise UpstreamError(self._url, f"{path} answered {response.status}")
                return bytes(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamError(self._url, f"{path}: {type(error).__name__}: {error}") from error


def _int(text: str | None) -> int:
    return min(int(text), COUNT_MAX) if text and text.isascii() and text.isdigit() and len(text) < 20 else 0


def _count(value: float) -> int:
    return int(min(max(value, 0), COUNT_MAX))
