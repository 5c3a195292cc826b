"""Rules between pools with roles, as tables."""

import pytest

from pilothouse.config.disaggregation import remarks
from pilothouse.config.explain import explain
from pilothouse.config.load import from_data, load, read_yaml
from pilothouse.core.errors import ConfigError

NIXL = "connector: {type: nixl}"


def pool(name: str, role: str, rest: str = NIXL, url: str = "") -> str:
    return f"  - {{name: {name}, role: {role}, endpoints: [{{url: '{url or f'http://{name}:1'}'}}], {rest}}}\n"


def problems(*pools: str) -> list[str]:
    try:
        load("pools:\n" + "".join(pools), "f")
    except ConfigError as error:
        return [str(problem).removeprefix("f: ") for problem in error.problems]
    return []


def remarked(*pools: str) -> list[str]:
    return [str(remark) for remark in remarks(load("pools:\n" + "".join(pools), "f"))]


PREFILL, DECODE, BOTH = pool("p", "prefill"), pool("d", "decode"), pool("b", "both", "models: []")


@pytest.mark.parametrize(
    ("pools", "begins"),
    [
        ([PREFILL, DECODE, BOTH], []),
        ([pool("b", "both", "connector: {type: mooncake_store}")], []),  # a shared store
        ([PREFILL, DECODE, pool("m", "both", "connector: {type: multi, carrier: mooncake, lease: 2s}")], []),
        ([pool("p", "prefill", "models: []"), DECODE], ["pools[0].connector: a prefill pool needs one"]),
        ([pool("d", "decode", "models: []")], ["pools[0].connector: a decode pool needs one"]),
        ([PREFILL], ["pools: no pool serves requests"]),
        ([DECODE, pool("p", "prefill", "connector: {type: nixl, lease: 1999ms}")], ["pools[1].connector.lease: must be at"]),
        ([DECODE, pool("p", "prefill", "connector: {type: sglang}")], ["pools[1].connector.type: sglang is not a connector"]),
        ([DECODE, pool("p", "prefill", NIXL + ", engine: sglang")], ["pools[1].connector.type: nixl is not a connector"]),
        ([pool("b", "both", "connector: {type: nixl, carrier: files}")], ["pools[0].connector.carrier: is only for"]),
        ([pool("b", "both", "connector: {type: multi, carrier: nixel}")], ["pools[0].connector.carrier: unknown connector"]),
        ([pool("p", "prefill", url="http://d:1"), DECODE], ["pools[1].endpoints[0]: d:1 is there already"]),
        ([pool("p", "prefill", "models: []"), pool("d", "decode", "connector: {type: nixl, lease: 1s}")],
         ["pools[0].connector: a prefill", "pools[1].connector.lease: must"]),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named_with_its_place(pools: list[str], begins: list[str]) -> None:
    got = problems(*pools)
    assert len(got) == len(begins) and all(line.startswith(begin) for line, begin in zip(got, begins, strict=True)), got


def test_an_engine_has_one_name() -> None:
    engines = [{"url": "http://a:1", "name": "x"}, {"url": "http://a:1"}]
    with pytest.raises(
        ConfigError, match=r"endpoints\[1\]\.url: http://a:1 is there already, as pools\[0\]\.endpoints"
    ):
        from_data({"pools": [{"endpoints": engines}]})


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ([PREFILL, DECODE, BOTH], []),
        ([DECODE], ["pools[0].connector: no prefill pool has the connector nixl for its models (there is none): "]),
        (
            [pool("p", "prefill", "connector: {type: mooncake}"), DECODE],
            [
                "pools[0].connector: no decode pool has the connector mooncake for its models (d has nixl): ",
                "pools[1].connector: no prefill pool has the connector nixl for its models (p has mooncake): ",
            ],
        ),
        (
            [pool("p", "prefill", NIXL + ", models: [x]"), pool("e", "decode", NIXL + ", models: [y]"), DECODE],
            ["pools[1].connector: no prefill pool has the connector nixl for its models (p has nixl): "],
        ),
        (
            [pool("p", "prefill", "connector: {type: multi, carrier: files}"),
             pool("d", "decode", "connector: {type: multi}")],
            [
                "pools[0].connector: no decode pool has the connector multi/files for its models (d has multi/nixl): ",
                "pools[1].connector: no prefill pool has the connector multi/nixl for its models (p has multi/files): ",
            ],
        ),
    ],
)  # fmt: skip
def test_pools_without_partner_are_remarked_on(pools: list[str], said: list[str]) -> None:
    assert remarked(*pools) == [line + "no request will be split" for line in said]


def test_the_explanation_has_roles_and_connectors() -> None:
    text = "pools:\n" + PREFILL + DECODE
    lines = {line.where: line for line in explain(load(text), read_yaml(text, "f"))}
    assert lines["pools[0].role"].value == "prefill" and lines["pools[0].role"].origin == "file"
    assert lines["pools[0].connector.type"].value == "nixl" and lines["pools[0].connector.lease"].value == "30s"
    assert lines["pools[0].labels"].value == "-"
