"""The fidelity benchmark runs on a ladder of another model, GPU and fleet, end to end."""

from pathlib import Path

import pytest

from benchmarks.fidelity import compare, one
from benchmarks.ladder import engine, profile_for, read

COLUMNS = "router,qps,stage_seconds,n_requests,out_tok_s,ttft_mean_s,itl_mean_ms,model,precision,hardware,replicas,tp"
OTHER = f"""{COLUMNS},gpu_memory_utilization,engine_version
round-robin,1,10,10,400,0.3,15,meta-llama/Llama-3.1-8B-Instruct,fp8,2x L40S 48GB,2,1,0.92,0.11.0
round-robin,2,10,20,,,,meta-llama/Llama-3.1-8B-Instruct,fp8,2x L40S 48GB,2,1,0.92,0.11.0
Istio plus EPP,1,10,10,400,0.3,15,gpt-oss-20b,mxfp4,1x MI300X,1,1,0.9,0.20.0
"""


def test_a_ladder_of_other_things(tmp_path: Path) -> None:
    file = tmp_path / "ladder.csv"
    file.write_text(OTHER)
    plain, routed = read(file)
    assert (plain.fleet, routed.fleet) == (
        "2x Llama-3.1-8B fp8 l40s TP1 at 0.92", "1x gpt-oss-20b fp4 mi300x TP1 at 0.9",
    )  # fmt: skip
    spec, other = engine(plain), engine(routed)
    assert spec and other and (spec.steps_ahead, other.steps_ahead) == (0, 1)
    assert (spec.sequences_max, other.sequences_max) == (256, 1024)
    figures: dict[str, float] = {}
    summaries = one(spec, plain, profile_for(plain.router), seed=1)
    assert [s.requests for s in summaries] == [10, 20] and all(not s.refused for s in summaries)
    compare("plain", plain, [summaries], figures)
    assert sorted(figures) == ["plain_itl", "plain_out", "plain_ttft"]  # a knee needs every rung


@pytest.mark.parametrize(
    "router, profile",
    [
        ("k8s_service", "kube_service"),
        ("Random (kube-proxy)", "kube_service"),
        ("round-robin", "round_robin"),
        ("least-request", "least_requests"),
        ("llmd_routed", "llmd_default"),
        ("llm-d EPP", "llmd_default"),
        ("sglang cache_aware", "sglang_cache_aware"),
        ("session-affinity", "session_affinity"),
        ("least_prefill", "least_prefill"),
        ("mystery", "llmd_default"),
    ],
)
def test_routers_by_their_names(router: str, profile: str) -> None:
    assert profile_for(router) == profile
