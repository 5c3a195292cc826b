"""Layouts: what holds for every model, GPU and size of cluster, then the published table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.perf.catalog import GPUS, MODELS, model_named
from pilothouse.perf.memory import Precision, kv_gib, kv_tokens
from pilothouse.plan.document import Layout
from pilothouse.plan.layouts import LONG_TOKENS, Candidate, Needs, candidates, described, recommended
from pilothouse.plan.memory import context_bytes, held, sequences

H100 = GPUS["h100_sxm"]
LONG = 131_072

needs = st.builds(
    Needs,
    prompt_tokens=st.sampled_from([0, 1000, LONG]),
    context_tokens=st.sampled_from([0, 4000, LONG]),
    ttft_s=st.sampled_from([None, 0.05, 0.5, 5.0]),
    tpot_s=st.sampled_from([None, 0.01, 0.05]),
    kv_precision=st.sampled_from(["bf16", "fp8", "fp4"]),
)


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.integers(1, 4),
    st.lists(st.sampled_from(list(Precision)), max_size=3, unique=True),
    needs,
)
def test_what_is_kept_can_be_built(
    name: str, gpu: str, per_node: int, nodes: int, precisions: list[Precision], asked: Needs
) -> None:
    model = MODELS[name]
    found = candidates(model, GPUS[gpu], per_node * nodes, nodes, precisions, asked)
    assert found and all(c.reason for c in found)
    assert [c.kept for c in found] == sorted((c.kept for c in found), reverse=True)
    for c in found:
        assert c.layout.expert_parallel <= bool(model.experts)
        if not c.kept:
            continue
        layout = c.layout
        assert 0 < c.replicas * layout.gpus <= per_node * nodes
        assert layout.tp * layout.pcp <= per_node and layout.pp <= nodes
        assert layout.dp == 1 or model.experts
        assert layout.expert_parallel == (bool(model.experts) and layout.gpus > layout.pp)
        assert held(model, GPUS[gpu], layout, c.precision).kv > 0
        assert model.heads % layout.tp == 0
        if layout.dcp > 1:
            assert model.latent or layout.dcp <= layout.tp // model.kv_heads
            assert asked.context_tokens >= LONG_TOKENS
        if layout.pcp > 1:
            assert asked.prompt_tokens >= LONG_TOKENS and layout.dcp in (1, layout.pcp, layout.tp * layout.pcp)


@given(st.sampled_from(sorted(MODELS)), st.sampled_from(sorted(GPUS)), st.integers(1, 4), needs)
def test_stages_only_where_no_node_has_room(name: str, gpu: str, nodes: int, asked: Needs) -> None:
    found = recommended(MODELS[name], GPUS[gpu], 8 * nodes, nodes, Precision.FP8, asked)
    alone = recommended(MODELS[name], GPUS[gpu], 8, 1, Precision.FP8, asked)
    if alone is not None and "nothing leaves more room" not in alone.reason:
        assert found is not None and found.layout.pp == 1


@given(st.sampled_from(sorted(MODELS)), st.sampled_from(sorted(GPUS)), st.sampled_from([0.02, 0.1, 0.5, 2.0]))
def test_a_stricter_first_token_never_takes_less_tensor_parallelism(name: str, gpu: str, ttft_s: float) -> None:
    def tp(ttft: float) -> int:
        asked = Needs(prompt_tokens=4000, ttft_s=ttft)
        found = [c for c in candidates(MODELS[name], GPUS[gpu], 8, 1, [Precision.FP8], asked) if c.kept]
        return max((c.layout.tp for c in found), default=0)

    assert tp(ttft_s) >= tp(1000.0)


TABLE = [  # model, GPUs, nodes, precision, needs, as published
    ("Qwen/Qwen3.6-27B", 1, 1, "fp8", Needs(), "TP=1"),
    ("Qwen/Qwen3.6-27B", 8, 1, "fp8", Needs(), "TP=1, DP=8"),
    ("Qwen/Qwen3.5-35B-A3B", 8, 1, "fp8", Needs(), "TP=1, DP=8, EP=8"),
    ("Qwen/Qwen3.5-35B-A3B", 8, 1, "bf16", Needs(), "TP=2, DP=4, EP=8"),
    ("Qwen/Qwen3.5-397B-A17B", 16, 2, "fp8", Needs(), "PP=2, TP=8, EP=8"),
    ("Qwen/Qwen3.5-397B-A17B", 16, 2, "fp8", Needs(context_tokens=LONG), "PP=2, TP=8, EP=8, DCP=2"),
    ("Qwen/Qwen3.5-397B-A17B", 16, 2, "fp8", Needs(prompt_tokens=LONG), "PP=2, TP=4, EP=8, PCP=2"),
]


@pytest.mark.parametrize(("name", "gpus", "nodes", "precision", "asked", "published"), TABLE)
def test_the_published_table(name: str, gpus: int, nodes: int, precision: str, asked: Needs, published: str) -> None:
    """On H100. As published, and all GPUs are used."""
    found = recommended(model_named(name), H100, gpus, nodes, Precision(precision), asked)
    assert found is not None and described(found.layout, found.replicas) == published
    assert found.replicas * found.layout.gpus == gpus


def chosen(name: str, gpus: int, nodes: int = 1, precision: Precision | None = None, **asked: float) -> Candidate:
    found = recommended(model_named(name), H100, gpus, nodes, precision, Needs(**asked))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_dense_ranks_are_engines_of_their_own_and_ranks_that_share_experts_one_engine() -> None:
    assert (chosen("qwen3.6-27b", 8).replicas, chosen("qwen3.5-35b-a3b", 8).replicas) == (8, 1)


def test_a_quantised_copy_is_preferred_where_the_gpu_computes_in_it() -> None:
    assert chosen("qwen3-32b", 8).precision is Precision.FP8
    a100 = recommended(model_named("qwen3-32b"), GPUS["a100_sxm"], 8)
    assert a100 is not None and a100.precision is Precision.BF16


def test_a_strict_first_token_justifies_more_tensor_parallelism() -> None:
    assert chosen("qwen3-32b", 8, prompt_tokens=7000, ttft_s=5.0).layout.tp == 1
    strict = chosen("qwen3-32b", 8, prompt_tokens=7000, ttft_s=0.5)
    assert strict.layout.tp == 2 and "alone takes" in strict.reason


def test_decode_context_parallelism_wants_replicated_heads() -> None:
    """Eight KV heads on two GPUs are nowhere twice, two heads on eight are."""
    assert chosen("qwen3-32b", 2, precision=Precision.BF16, context_tokens=LONG).layout.dcp == 1
    assert chosen("qwen3.5-397b-a17b", 16, 2, context_tokens=LONG).layout.dcp == 2


def test_latent_attention_counts_shared_experts_and_may_share_over_nodes() -> None:
    found = [c for c in candidates(model_named("deepseek-v3"), H100, 16, 2, [Precision.FP8]) if c.kept]
    assert found[0].layout.pp == 2 and found[0].layout.tp < 8
    assert any(c.layout.pp == 1 and c.layout.ep == 16 for c in found)


def test_what_does_not_fit_says_so() -> None:
    card = GPUS["rtx_pro_6000"]
    assert recommended(model_named("qwen3.5-397b-a17b"), card, 1, 1, Precision.FP4) is None
    (refusal,) = candidates(model_named("qwen3.5-397b-a17b"), card, 1, 1, [Precision.FP4])
    assert "does not fit" in refusal.reason and "GiB of weights" in refusal.reason
    with pytest.raises(ValueError, match="equal nodes"):
        candidates(model_named("qwen3-8b"), H100, 3, 2)


def test_a_tight_fit_is_kept_when_there_is_nothing_better() -> None:
    found = chosen("qwen3-32b", 1, precision=Precision.BF16)
    assert found.layout == Layout() and "leave 4.5 GiB for KV" in found.reason


@given(st.sampled_from(sorted(MODELS)), st.sampled_from([1, 2, 4, 8]), st.sampled_from(list(Precision)))
def test_memory_of_plain_layouts_is_what_the_engine_sizes(name: str, tp: int, precision: Precision) -> None:
    model, layout = MODELS[name], Layout(tp=tp)
    room = held(model, H100, layout, precision).kv
    assert room == pytest.approx(kv_gib(model, H100, tp, precision), abs=1e-9)
    tokens = sequences(model, layout, room, 8192) * 8192
    assert int(tokens) == pytest.approx(kv_tokens(model, H100, tp, precision), abs=1)


def test_what_is_shared_and_what_is_not() -> None:
    model = model_named("qwen3.5-397b-a17b")
    wide = context_bytes(model, Layout(tp=8), 1000)
    assert context_bytes(model, Layout(tp=8, pp=2), 1000) == wide / 2
    state = context_bytes(model, Layout(tp=8), 0)
    assert context_bytes(model, Layout(tp=8, dcp=2), 1000) - state == pytest.approx((wide - state) / 2)
    assert context_bytes(model, Layout(tp=8, pcp=2), 1000) == wide  # prefill ranks keep copies
    alone = held(model, H100, Layout(tp=4, dp=1, expert_parallel=True), Precision.FP8).weights
    shared = held(model, H100, Layout(tp=4, dp=2, expert_parallel=True), Precision.FP8).weights
    assert alone / 2 < shared < alone * 0.55
