"""Workload files: every example reads, every mistake is named with its place."""

import pickle
from pathlib import Path

import pytest

from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError
from pilothouse.workload.arrivals import Bursts
from pilothouse.workload.chat import Chat
from pilothouse.workload.lengths import Lognormal, Pauses
from pilothouse.workload.mix import Mix
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.sessions import Phase
from pilothouse.workload.shared_prefix import SharedPrefix
from pilothouse.workload.spec import Recipe
from tests.workload.recipes import agentic_session, check, mooncake_rows

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "workloads"
OPEN = {"kind": "open_loop", "rate": 2, "duration": "3s"}


def problems(data: object, base: Path = Path()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_workload(data, base)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_reads_and_makes_requests(path: Path) -> None:
    try:
        recipe = read_workload(path.name, EXAMPLES)
    except ConfigError as error:
        if all(problem.what.startswith("cannot read") for problem in error.problems):
            pytest.skip("no traces beside the repository (../shared/traces)")
        raise
    workload = recipe.make(1, 0.1)
    assert any(stage.requests for stage in workload.stages) and pickle.loads(pickle.dumps(recipe)) == recipe
    if path.stem in ("chat", "batch", "tenants", "rag", "sharegpt"):
        check(workload)


def test_the_guide_needs_no_word_more() -> None:
    assert read_workload("guide.yaml", EXAMPLES) == Recipe(SharedPrefix())


def test_everything_is_written_as_people_do() -> None:
    data = {
        "kind": "chat",
        "stages": [{"users": 2, "count": 3, "ramp": "1m"}, {"rate": 0.5, "duration": "20s", "reported": False}],
        "arrivals": {"kind": "bursts", "busy": "2s", "rest": "500ms"},
        "turns": [1, 3],
        "user_tokens": {"kind": "lognormal", "mean": 300, "most": 900, "sigma": 1},
        "output_tokens": 20,
        "think": {"mean": "2s", "p99": "9s", "most": "1m"},
    }
    spec = read_workload(data, Path()).spec
    assert isinstance(spec, Chat)
    assert spec.phases == [Phase(users=2, count=3, ramp_us=60_000_000), Phase(0.5, 20.0, reported=False)]  # type: ignore[arg-type]
    assert spec.arrivals == Bursts(2_000_000, 500_000)  # type: ignore[arg-type]
    assert (spec.turns, spec.output_tokens, spec.user_tokens) == ((1, 3), 20, Lognormal(300, 900, sigma=1))
    assert spec.think == Pauses(2_000_000, 9_000_000, 60_000_000)  # type: ignore[arg-type]
    assert getattr(read_workload(data | {"think": "3s"}, Path()).spec, "think") == 3_000_000  # noqa: B009
    check(read_workload(data, Path()).make(1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "kind: is required, one of: shared_prefix, open_loop, chat"),
        ({"kind": "chart"}, "kind: unknown kind 'chart', did you mean 'chat'?"),
        ({"kind": ["chat"]}, "kind: unknown kind ['chat']"),
        (OPEN | {"promt_tokens": 3}, "promt_tokens: unknown field, did you mean 'prompt_tokens'?"),
        (OPEN | {"duration": 3}, "duration: 3 is not a duration"),
        (OPEN | {"prompt_tokens": {"kind": "lognormal", "mean": 3}}, "prompt_tokens.most: is required"),
        (
            OPEN | {"prompt_tokens": {"kind": "normal"}},
            "prompt_tokens.kind: unknown kind 'normal', did you mean 'lognormal'?",
        ),
        (
            OPEN | {"prompt_tokens": [5, 2]},
            "prompt_tokens must be at least 1 and at most 10000000, and limits must rise",
        ),
        (OPEN | {"prompt_tokens": "many"}, "prompt_tokens: "),
        (OPEN | {"arrivals": "poison"}, "arrivals: Invalid enum value 'poison'"),
        (OPEN | {"arrivals": {"kind": "gamma", "burstiness": 0}}, "arrivals: burstiness must lie between"),
        (OPEN | {"rate": 1e9}, "a stage must not have more than 10000000"),
        (OPEN | {"prefix_tokens": 10**12}, "prefix_tokens must be at least 0 and at most 10000000"),
        ({"kind": "open_loop"}, "give rate and duration, or stages"),
        ({"kind": "chat", "stages": []}, "stages must not be empty"),
        ({"kind": "chat", "stages": [{"users": 2}]}, "stages[0]: users must be at least 1 and at most count"),
        (
            {"kind": "chat", "stages": [{"users": 2, "count": 2, "rate": 1}]},
            "stages[0]: give rate and duration, or users",
        ),
        ({"kind": "mix", "tenants": [{"name": "a", "workload": OPEN | {"rate": -1}}]}, "tenants[0].workload: rate and"),
        (
            {"kind": "mix", "tenants": [{"name": "a", "workload": {"kind": "mix"}}]},
            "tenants[0].workload.tenants: is required",
        ),
        ({"kind": "mooncake", "file": "none.jsonl"}, "file: cannot read none.jsonl: No such file"),
        ({"kind": "mooncake", "file": "f", "until": "0s"}, "until must be later than from"),
        ("none.yaml", "workload: cannot read none.yaml: No such file"),
        (None, "top level: must be a mapping, not nothing"),
    ],
)
def test_mistakes_are_named_with_their_place(data: object, said: str) -> None:
    assert any(said in problem for problem in problems(data)), problems(data)


def test_all_problems_come_together() -> None:
    data = OPEN | {"rate": "x", "duration": "1 week", "output_tokens": {"kind": "listed", "values": []}, "colour": 1}
    assert len(problems(data)) == 4


def test_tenants_must_suit_one_fleet() -> None:
    other = OPEN | {"block_size": 64}
    data = {"kind": "mix", "tenants": [{"name": "a", "workload": OPEN}, {"name": "b", "workload": other}]}
    assert "tenants[1].workload: is for model 'm' in blocks of 64" in problems(data)[0]
    data["tenants"] = [{"name": "a", "workload": OPEN}] * 2
    assert "tenants must have different names" in problems(data)[0]


def test_a_file_refers_to_what_lies_beside_it(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "trace.jsonl").write_bytes(mooncake_rows())
    (inner / "trace.yaml").write_text("kind: mooncake\nfile: trace.jsonl\nmodel: x\n")
    (tmp_path / "mix.yaml").write_text("kind: mix\ntenants:\n  - {name: t, workload: inner/trace.yaml}\n")
    recipe = read_workload("mix.yaml", tmp_path)
    assert isinstance(recipe.spec, Mix) and len(recipe.make(1).stages[0].requests) == 6
    (inner / "trace.yaml").write_text("kind: mooncake\nfile: trace.jsonl\nfrm: 1s\n")
    assert problems("mix.yaml", tmp_path) == [f"{inner / 'trace.yaml'}: frm: unknown field, did you mean 'from'?"]


def test_a_circle_of_files_ends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: mix\ntenants:\n  - {name: t, workload: a.yaml}\n")
    assert "refer to each other" in problems("a.yaml", tmp_path)[0]


@pytest.mark.parametrize("kind", ["mooncake", "azure", "sharegpt", "agentic_trace"])
@pytest.mark.parametrize("content", [b"", b"{}", b"a,b\n1,2\n", b'{"requests": [], "block_size": 64}', b"\xff\xfe"])
def test_a_file_that_is_no_such_trace_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    stages = {"stages": [{"users": 1, "count": 1}]} if kind == "agentic_trace" else {}
    assert f"is no {kind} trace" in problems({"kind": kind, "file": "t"} | stages, tmp_path)[0]


def test_a_directory_of_sessions_must_hold_one_that_can_begin(tmp_path: Path) -> None:
    data = {"kind": "agentic_trace", "file": ".", "stages": [{"users": 1, "count": 1}]}
    assert "holds no *.json" in problems(data, tmp_path)[0]
    (tmp_path / "a.json").write_bytes(agentic_session())
    assert len(read_workload(data, tmp_path).make(1).stages[0].requests) == 5
    assert "within context_max" in problems(data | {"context_max": 100}, tmp_path)[0]


def test_open_loops_in_python_and_in_files_are_one_thing() -> None:
    assert read_workload(OPEN, Path()).spec == OpenLoop(2.0, 3.0)  # type: ignore[arg-type]
