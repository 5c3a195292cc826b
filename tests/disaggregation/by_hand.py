"""The wire protocol of each connector, spoken by hand: two plain HTTP requests, and no Pilothouse in between.

    prompt = varied_prompt(7)
    assert split_by_hand(exchange, prefill, decode, prompt) == whole(single, prompt)

What an engine does alone is shown with these; what Pilothouse makes of it, by sending the same prompts to a gateway.
"""

import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

from rig import metrics
from rig.engines import Engine
from rig.exchange import Exchange, bootstrap_port

Body = dict[str, Any]
PLEASE_PREFILL = {"do_remote_decode": True, "do_remote_prefill": False}
PLEASE_FETCH = {"do_remote_decode": False, "do_remote_prefill": True}
NO_PARAMETERS = ("files", "mooncake_store", "lmcache")  # engines find KV by what the prompt is


class Server(Protocol):
    """An engine, or a gateway."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Address:
    """An engine that somebody else has started."""

    url: str


class Refused(Exception):
    """An engine did not answer 200."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


def varied_prompt(seed: int, tokens: int = 400) -> list[int]:
    """Token ids without repetition to speak of: no two prompts share a block."""
    chosen = random.Random(seed)
    return [chosen.randrange(300, 4000) for _ in range(tokens)]


def ask(url: str, body: Body | None = None, request: str = "", timeout: float = 60) -> Any:
    """GET, or POST of JSON; the JSON of the answer."""
    headers = {"content-type": "application/json"} | ({"x-request-id": request} if request else {})
    try:
        with urlopen(Request(url, json.dumps(body).encode() if body else None, headers), timeout=timeout) as answer:
            return json.loads(answer.read())
    except HTTPError as error:
        with error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None


def completion(
    engine: Server,
    prompt: list[int] | list[list[int]],
    parameters: Body | None = None,
    request: str = "",
    **more: Any,
) -> Any:
    """A greedy completion; `parameters` are the connector's."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0, "return_token_ids": True, **more}
    body |= {"kv_transfer_params": parameters} if parameters else {}
    return ask(f"{engine.url}/v1/completions", body, request)


@contextmanager
def begun(server: Server, prompt: list[int], **more: Any) -> Iterator[HTTPResponse]:
    """A streamed answer whose first token is here. Leaving the block before its end hangs up."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0, "stream": True, **more}
    with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=60)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise Refused(answer.status, answer.read().decode(errors="replace"))
            yield answer


@contextmanager
def occupied(engine: Server) -> Iterator[None]:
    """One slot of the engine is busy with an answer that ends when the block is left: its client is gone then."""
    with begun(engine, [300], max_tokens=8000, ignore_eos=True) as answer:
        answer.readline()
        yield


def streamed(server: Server, prompt: list[int]) -> list[int]:
    """What comes of a prompt, read as it is generated."""
    with begun(server, prompt, return_token_ids=True) as answer:
        events = [line.removeprefix("data: ") for line in answer.read().decode().splitlines() if line]
    assert events[-1] == "[DONE]", events
    return [token for event in events[:-1] for token in json.loads(event)["choices"][0]["token_ids"]]


def tokens_of(answer: Any) -> list[int]:
    """What was generated."""
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def whole(engine: Server, prompt: list[int]) -> list[int]:
    """What one engine alone makes of a prompt."""
    return tokens_of(completion(engine, prompt))


def prefill_by_hand(exchange: Exchange, prefill: Engine, prompt: list[int], request: str) -> Body | None:
    """Has the prompt computed; the parameters with which a decode engine gets at its KV."""
    connector = exchange.connector
    asked: Body | None = None if connector in NO_PARAMETERS else dict(PLEASE_PREFILL)
    if asked and connector == "mooncake":
        asked["transfer_id"] = request
    # a token that ends the answer is no reason for Mooncake to keep KV
    answer = completion(prefill, prompt, asked, request, max_tokens=1, ignore_eos=True)
    if connector != "mooncake":
        given: Body | None = answer["kv_transfer_params"]
        return given
    port = bootstrap_port(prefill)
    engine = ask(f"http://127.0.0.1:{port}/query")["0"]["engine_id"]
    where = {"remote_bootstrap_addr": f"http://127.0.0.1:{port}", "remote_engine_id": engine}
    return {**PLEASE_FETCH, **where, "transfer_id": request}


def split_by_hand(exchange: Exchange, prefill: Engine, decode: Engine, prompt: list[int]) -> list[int]:
    """One engine computes the prompt, the other one answers. NIXL's push mode wants both to know it by one name."""
    request = uuid4().hex
    parameters = prefill_by_hand(exchange, prefill, prompt, request)
    return tokens_of(completion(decode, prompt, parameters, request))


def metric(engine: Server, name: str, **labels: str) -> float:
    """A number that an engine tells."""
    return metrics.metric(engine.url, name, **labels)


def fetched_tokens(engine: Server) -> float:
    """Prompt tokens whose KV came from outside, since the engine started."""
    return metrics.fetched_tokens(engine.url)
