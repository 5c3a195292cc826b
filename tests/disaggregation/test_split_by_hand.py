"""Each connector's protocol as docs/engines.md has it, spoken by hand to real engines: the tokens are those of one engine."""

import pytest

from pilothouse.config.load import from_data
from pilothouse.core.events import Role
from pilothouse.live.launch_connector import NAMES
from rig.engines import Engine
from rig.exchange import Exchange
from tests.disaggregation.by_hand import fetched_tokens, split_by_hand, varied_prompt, whole

pytestmark = pytest.mark.engine

PROMPTS = [varied_prompt(seed) for seed in range(3)]  # of 400 tokens: 12 blocks and a half
STORES = ("mooncake_store", "lmcache")
WHOLE_PROMPT = ("nixl", "nixl_push", "mooncake", "multi")  # others hand over full blocks only


@pytest.mark.parametrize("connector", NAMES)
def test_a_split_gives_the_tokens_of_one_engine(
    connector: str, pair: tuple[Exchange, Engine, Engine], single: Engine
) -> None:
    exchange, prefill, decode = pair
    from_data({"pools": [exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, decode)]}, "pair")
    fetched = []
    for prompt in PROMPTS:
        before = fetched_tokens(decode)
        assert split_by_hand(exchange, prefill, decode, prompt) == whole(single, prompt)
        fetched.append(fetched_tokens(decode) - before)
    if connector in STORES:  # which are written in the background: a request that follows at once may come too early
        assert 384 in fetched and {*fetched} <= {0, 384}
    else:
        assert {*fetched} == {400 if connector in WHOLE_PROMPT else 384}
