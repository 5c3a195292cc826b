"""A configuration that is wrong says everything that is wrong with it, each with its place; nothing else ever escapes."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.build import dispatcher, journal_header
from pilothouse.config.load import from_data, load
from pilothouse.config.policy import manual, profile
from pilothouse.config.schema import Config
from pilothouse.config.values import Duration
from pilothouse.core.errors import ConfigError
from pilothouse.core.policy import filters, pickers, scorers

POOLS = "pools: [{endpoints: [{url: 'http://a:8000'}]}]\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, "f")
    return str(caught.value).splitlines()


def test_the_smallest_configuration() -> None:
    config = load(POOLS)
    assert (config.listen, config.policy, config.timeouts.connect) == ("127.0.0.1:8080", "marginal_cost", 2_000_000)
    assert config.pools[0].endpoints[0].url == "http://a:8000"


def test_the_file_is_read_as_written() -> None:
    config = load(
        """
        listen: "[::1]:80"
        policy: {name: mine, filters: [kv_headroom], scorers: [{type: queue_depth, requests_max: 9, weight: 2}]}
        pools: [{name: p, engine: sglang, dns: {name: engines, port: 8000, every: 1m}, hashing: {seed: "0"}}]
        timeouts: {waiting: 0s, drain: 0s, connect: 250ms}
        limits: {body: 1MiB, waiting: 0}
        """
    )
    pool = config.pools[0]
    assert pool.dns is not None and (pool.dns.every, pool.hashing.seed) == (60_000_000, "0")
    assert (config.timeouts.connect.us, config.timeouts.waiting, config.limits.body) == (250_000, 0, 1 << 20)
    built = profile(config.policy)
    assert built.name == "mine" and built.scorers[0].weight == 2


BAD = [
    # text, every line of the message
    ("", ["f: pools: is required"]),
    ("[]", ["f: top level: must be a mapping, not list"]),
    ("text", ["f: top level: must be a mapping, not str"]),
    ("pools: []", ["f: pools: Expected `array` of length >= 1"]),
    ("pools: {}", ["f: pools: Expected `array`, got `object`"]),
    ("pools: [null]", ["f: pools[0]: must be a mapping, not nothing"]),
    ("pools: [{}]", ["f: pools[0]: has no engines: give `endpoints` or `dns`"]),
    ("pools: [{endpoints: [{}]}]", ["f: pools[0].endpoints[0].url: is required"]),
    (POOLS + "listn: x", ["f: listn: unknown field, did you mean 'listen'?"]),
    (POOLS + "limits: {waitng: 1}", ["f: limits.waitng: unknown field, did you mean 'waiting'?"]),
    (POOLS + "journal: {zzz: 1}", ["f: journal.zzz: unknown field, known: directory, bytes_max, segment"]),
    (POOLS + "3: 4", ["f: 3: unknown field, known: "]),
    (POOLS + "seed: one", ["f: seed: Expected `int`, got `str`"]),
    (POOLS + "seed: 1.5", ["f: seed: Expected `int`, got `float`"]),
    (POOLS + "seed: 9223372036854775807", ["f: seed: 9223372036854775807 is too large"]),
    (POOLS + "seed: 99999999999999999999999", ["f: seed: "]),
    (POOLS + "workers: 0", ["f: workers: Expected `int` >= 1"]),
    (POOLS + "workers: true", ["f: workers: Expected `int`, got `bool`"]),
    (POOLS + "limits: {retry_ratio: .nan}", ["f: limits.retry_ratio: Expected `float` >= 0.0"]),
    (POOLS + "limits: {retries_burst: .inf}", ["f: limits.retries_burst: inf is not a finite number"]),
    (POOLS + "limits: null", ["f: limits: must be a mapping, not nothing"]),
    (POOLS + "timeouts: {head: 10}", ["f: timeouts.head: 10 is not a duration such as 250ms, 30s or 2m"]),
    (POOLS + "timeouts: {head: 10 days}", ["f: timeouts.head: '10 days' is not a duration such as 250ms, 30s or 2m"]),
    (POOLS + "timeouts: {head: -1s}", ["f: timeouts.head: '-1s' is not a duration such as 250ms, 30s or 2m"]),
    (POOLS + "timeouts: {head: 0s}", ["f: timeouts.head: must be more than 0"]),
    (POOLS + f"timeouts: {{head: {'9' * 20}h}}", [f"f: timeouts.head: '{'9' * 20}h' is too large"]),
    (POOLS + "health: {every: 0ms}", ["f: health.every: must be more than 0"]),
    (POOLS + "health: {backoff: 1m}", ["f: health.backoff: must not exceed `health.backoff_max`"]),
    (POOLS + "limits: {body: 1MB}", ["f: limits.body: '1MB' is not a size such as 64KiB or 32MiB"]),
    (POOLS + "journal: {segment: 2GiB}", ["f: journal.segment: must not exceed `journal.bytes_max`"]),
    (POOLS + "listen: '8080'", ["f: listen: '8080' is not host:port"]),
    (POOLS + "listen: h:65536", ["f: listen: 'h:65536' is not host:port"]),
    (POOLS + "listen: h:²", ["f: listen: 'h:²' is not host:port"]),
    (POOLS + f"listen: h:{'1' * 5000}", [f"f: listen: 'h:{'1' * 5000}' is not host:port"]),
    (POOLS + "control: 127.0.0.1:8080", ["f: control: must differ from `listen`"]),
    (POOLS + "seed: 1\nseed: 2", ["f: is not YAML: seed is given twice"]),
    ("a: [", ["f: is not YAML: "]),
    ("a: 2024-13-45", ["f: is not YAML: "]),
    ("a: !!python/object:os.system x", ["f: is not YAML: "]),
    ("a: " + "[" * 3000, ["f: is not YAML: "]),
    ("- " * 60_000, ["f: is not YAML: "]),  # so deep that libyaml would end the process
    (POOLS + "policy: cache_and_lod", ["f: policy: unknown policy 'cache_and_lod', did you mean 'cache_and_load'?"]),
    (
        POOLS + "policy: zzz",
        ["f: policy: unknown policy 'zzz', known: cache_and_load, least_requests, marginal_cost, "],
    ),
    (POOLS + "policy: 3", ["f: policy: must be a name or a mapping with filters, scorers and picker"]),
    (POOLS + "policy: {scorer: []}", ["f: policy.scorer: unknown field, known: name, like, filters, scorers, picker"]),
    (POOLS + "policy: {scorers: queue_depth}", ["f: policy.scorers: must be a list"]),
    (
        POOLS + "policy: {scorers: [queue_dept]}",
        ["f: policy.scorers[0]: unknown scorer 'queue_dept', did you mean 'queue_depth'?"],
    ),
    (
        POOLS + "policy: {scorers: [{type: queue_depth, cap: 1}]}",
        ["f: policy.scorers[0].cap: unknown field, known: requests_max"],
    ),
    (
        POOLS + "policy: {scorers: [{type: queue_depth, requests_max: 0}]}",
        ["f: policy.scorers[0]: requests_max must be at least 1"],
    ),
    (
        POOLS + "policy: {scorers: [{type: cache_and_load, decode_slowdown: .inf}]}",
        ["f: policy.scorers[0].decode_slowdown: inf is not a finite number"],
    ),
    (
        POOLS + "policy: {scorers: [{weight: 1}]}",
        ["f: policy.scorers[0]: must be a scorer's name or a mapping with `type`"],
    ),
    (POOLS + "policy: {filters: [1]}", ["f: policy.filters[0]: must be a filter's name or a mapping with `type`"]),
    (POOLS + "policy: {picker: bst}", ["f: policy.picker: unknown picker 'bst', did you mean 'best'?"]),
]
WEIGHTS = ["-1", ".nan", ".inf", "true", "'1'", "[]", "1e300"]
BAD += [
    (
        POOLS + f"policy: {{scorers: [{{type: session, weight: {weight}}}]}}",
        ["f: policy.scorers[0].weight: must be a number from 0 to 1e+06"],
    )
    for weight in WEIGHTS
]
URLS = [
    "a:8000",
    "https://a:8000",
    "http://",
    "http://:80",
    "http://a:x",
    "http://a:0",
    "http://a/v1",
    "http://a:1/",
    "http://a b",
]
URLS += ["http://u:p@a", "http://a?q", "http://a#f", "http://[::1", " http://a", "http://a\\n"]
BAD += [(f'pools: [{{endpoints: [{{url: "{url}"}}]}}]', ["f: pools[0].endpoints[0].url: "]) for url in URLS]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_mistake_is_named_with_its_place(text: str, expected: list[str]) -> None:
    got = problems(text)
    assert len(got) == len(expected), got
    for line, begins in zip(got, expected, strict=True):
        assert line.startswith(begins), got


@pytest.mark.parametrize("url", ["http://a", "http://a:8000", "http://10.0.0.1:1", "http://[::1]:8000"])
def test_an_address_of_an_engine(url: str) -> None:
    assert load(f"pools: [{{endpoints: [{{url: '{url}'}}]}}]").pools[0].endpoints[0].url == url


def test_all_mistakes_are_listed_together() -> None:
    text = """
    listen: 3
    policy: {filters: [kv_hedroom], scorers: [{type: prefix_cache, weight: -1}, nothing], picker: beast}
    pools: [{engine: tgi, endpoints: [{url: "http://a:1"}, {name: b}]}, {dns: {name: x, port: 70000, every: soon}}]
    timeouts: {connect: fast, hed: 1s}
    """
    assert [line.split(": ")[1] for line in problems(text)] == [
        "listen",
        "pools[0].engine",
        "pools[0].endpoints[1].url",
        "pools[1].dns.port",
        "pools[1].dns.every",
        "timeouts.hed",
        "timeouts.connect",
        "policy.filters[0]",
        "policy.scorers[0].weight",
        "policy.scorers[1]",
        "policy.picker",
    ]


def test_nothing_is_there_twice() -> None:
    text = """
    pools:
      - endpoints: [{url: "http://a:1"}, {url: "http://b:1", name: "a:1"}, {url: "http://c:1", name: d}]
      - endpoints: [{url: "http://a:1"}, {url: "http://e:1", name: d}]
    """
    assert problems(text) == [
        "f: pools[0].endpoints[1]: a:1 is there already, as pools[0].endpoints[0]",
        "f: pools[1].name: 'default' is there already, as pools[0]",
        "f: pools[1].endpoints[0]: a:1 is there already, as pools[0].endpoints[0]",
        "f: pools[1].endpoints[1]: d is there already, as pools[0].endpoints[2]",
    ]


def test_fixed_engines_and_dns_exclude_each_other() -> None:
    text = "pools: [{endpoints: [{url: 'http://a'}], dns: {name: x, port: 1}}]"
    assert problems(text) == ["f: pools[0]: give `endpoints` or `dns`, not both"]


def test_manual_pages_name_the_parameters() -> None:
    pages = {name: parameters for registry in (filters, scorers, pickers) for name, _, parameters in manual(registry)}
    assert pages["queue_depth"] == [("requests_max", "128")]
    assert pages["best"] == []


# Whatever YAML can say

words = st.sampled_from(["", "default", "10s", "http://a:1", "best", "session", "0", "²", "1e9h", "vllm"]) | st.text(
    max_size=5
)
names = st.sampled_from(
    [
        "pools",
        "endpoints",
        "url",
        "dns",
        "port",
        "policy",
        "scorers",
        "type",
        "weight",
        "filters",
        "picker",
        "limits",
        "body",
        "waiting",
        "timeouts",
        "head",
        "listen",
        "seed",
        "health",
        "every",
        "engine",
        "name",
        "hashing",
        "grants",
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | words
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=3)
)
keys: st.SearchStrategy[Any] = names | words | st.integers() | st.none() | st.dates()
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5) | st.frozensets(words, max_size=2)
    ),
    max_leaves=12,
)
VALID: dict[str, Any] = {
    "pools": [{"endpoints": [{"url": "http://a:1"}]}],
    "policy": {"filters": ["kv_headroom"], "scorers": [{"type": "queue_depth", "requests_max": 4, "weight": 1}]},
    "limits": {"body": "1MiB", "retry_ratio": 0.2},
    "timeouts": {"head": "1s"},
}


def accepts(data: object) -> None:
    """ConfigError or a configuration that works, never anything else."""
    try:
        config = from_data(data)
    except ConfigError as error:
        assert error.problems and all(str(problem) for problem in error.problems)
    else:
        works(config)


def works(config: Config) -> None:
    dispatcher(config).snapshot()
    journal_header(config)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(anything)
def test_any_data_is_refused_or_works(data: object) -> None:
    accepts(data)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.data())
def test_a_valid_configuration_with_one_thing_changed_is_refused_or_works(data: st.DataObject) -> None:
    changed: Any = deepcopy(VALID)
    place = changed
    while True:
        steps = list(place) if isinstance(place, dict) else list(range(len(place)))
        step = data.draw(st.sampled_from(steps)) if steps else None
        if step is None:
            break
        if isinstance(place[step], dict | list) and data.draw(st.booleans()):
            place = place[step]
            continue
        place[step] = data.draw(anything)
        break
    if isinstance(place, dict) and data.draw(st.booleans()):
        place[data.draw(keys)] = data.draw(anything)
    accepts(changed)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("ab: -[]{}&*!|>'\"\n#%@`,?0192.e"), max_size=40) | st.text(max_size=20))
def test_any_text_is_refused_or_works(text: str) -> None:
    try:
        works(load(text))
    except ConfigError as error:
        assert error.problems


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 53))
def test_durations_survive_being_written(us: int) -> None:
    assert Duration.parse(str(Duration(us))) == us
