"""`pilothouse size`: laws, the published sums, and what a person sees."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.perf.catalog import GPUS, MODELS, model_named
from pilothouse.perf.memory import KV_BYTES, Precision, sequence_bytes
from pilothouse.plan.chat_rule import DECODERS, REQUESTS_PER_S, SESSIONS, chat
from pilothouse.plan.document import Layout
from pilothouse.plan.model_source import usual_precision
from pilothouse.plan.size import Size, size

QWEN, CARD = model_named("Qwen/Qwen3.6-27B"), GPUS["rtx_pro_6000"]
CPU_S_MAX = 0.3  # of the whole command, start-up included


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(list(Precision)),
    st.sampled_from(sorted(KV_BYTES)),
    st.lists(st.integers(1, 1_000_000), min_size=1, max_size=4),
)
def test_parts_add_up_and_longer_sessions_are_never_more(
    name: str, gpu: str, tp: int, precision: Precision, kv: str, contexts: list[int]
) -> None:
    found = size(MODELS[name], GPUS[gpu], Layout(tp=tp), precision, kv, sorted(contexts))
    held = found.held
    assert held.weights + held.activation + held.other + held.kv == pytest.approx(found.memory_gib)
    counts = [each.sequences for each in found.sessions]
    assert counts == sorted(counts, reverse=True)
    assert bool(found.refusal) == (held.kv <= 0) == (found.tokens == 0)
    for each in found.sessions:
        assert each.sequences * each.gb == pytest.approx(found.kv_gb)
        assert each.sequences * each.context <= found.tokens * (1 + 1e-6) + each.context


def at_65_gb(kv: str) -> Size:
    return size(QWEN, CARD, Layout(), Precision.FP4, kv, kv_gb=65)


def test_the_published_sums_of_one_card() -> None:
    """65 GB, the sessions with their states: 50, 15 and 4 as published are FP8 KV beside FP4 weights."""
    assert (at_65_gb("bf16").kv_token_bytes, at_65_gb("fp8").kv_token_bytes) == (65_536, 32_768)
    found = at_65_gb("fp8")
    assert found.tokens == pytest.approx(2e6, rel=0.01)
    assert [each.sequences for each in found.sessions] == pytest.approx([50, 15, 4], rel=0.07)
    assert at_65_gb("fp4").sessions[2].sequences == pytest.approx(4 * 32 / 18, rel=0.08)  # 4.5 bits a value


def test_65_gb_are_what_fp4_weights_leave() -> None:
    found = size(QWEN, CARD, Layout(), Precision.FP4, "fp8")
    assert found.kv_gb == pytest.approx(65, rel=0.02)
    assert any("linear layers keep 154 MB" in note for note in found.notes)


@pytest.mark.parametrize("precision", list(Precision))
def test_what_no_card_holds_is_refused_with_the_reason(precision: Precision) -> None:
    found = size(model_named("Qwen/Qwen3.5-397B-A17B"), CARD, Layout(), precision)
    assert found.refusal.startswith("weights do not fit") and "usable are 86.0 of 95.6 GiB" in found.refusal
    assert found.refusal.endswith("GPUs that hold it: 8 in fp8, 4 in fp4")


def test_headroom_is_what_sessions_leave() -> None:
    found = size(QWEN, CARD, Layout(), Precision.FP4, "fp8", [32_768], sessions=26)
    assert found.headroom == pytest.approx(1 - 26 / found.sessions[0].sequences)


def test_the_rule_of_thumb_for_chat_is_ours_with_room_to_spare() -> None:
    found = chat(model_named("llama-3-8b"), GPUS["h100_sxm"], GPUS["l40s"], Precision.BF16)
    assert REQUESTS_PER_S < found.requests_per_s < 2.5 * REQUESTS_PER_S
    assert min(found.sequences_kv, found.sequences_tpot) == pytest.approx(SESSIONS, rel=0.2)
    assert 1 < found.decoders < DECODERS[0]
    assert len(found.differences) == 2


def told(*options: str) -> Any:
    return CliRunner().invoke(app, ["size", *options])


def test_the_command() -> None:
    done = told("--model", "Qwen/Qwen3.6-27B", "--gpu", "rtx_pro_6000", "--precision", "fp4", "--kv-precision", "fp8")
    assert done.exit_code == 0, done.output
    assert "32,768 B = 32 KiB" in done.output and "sessions at 128k" in done.output and "Estimated" in done.output
    refused = told("--model", "Qwen/Qwen3.5-397B-A17B", "--gpu", "rtx_pro_6000")
    assert refused.exit_code == 1 and "weights do not fit" in refused.output


def test_the_command_as_json_with_lengths_and_chat() -> None:
    lengths = ("--prompt", "800:3000:16000", "--output", "200:1000:4000", "--overflow", "0.1%")
    done = told("--model", "llama-3-8b", "--gpu", "h100", *lengths, "--chat", "l40s", "--json")
    answer = json.loads(done.output)
    assert 0 < answer["varied"]["sequences"] < answer["varied"]["by_means"]
    assert answer["chat"]["decoders"] > 1 and answer["size"]["precision"] == "bf16"


def test_a_model_of_its_own_directory(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 128, "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"intermediate_size": 256}))
    done = told("--model", str(tmp_path), "--gpu", "l4", "--json")
    assert json.loads(done.output)["size"]["kv_token_bytes"] == 2 * 2 * 128 * 2
    (tmp_path / "config.json").write_text(json.dumps(shape))
    refused = told("--model", str(tmp_path), "--gpu", "l4")
    assert refused.exit_code == 2 and "lacks intermediate_size" in refused.output


def test_entries_of_ones_own(tmp_path: Path) -> None:
    model, gpu = tmp_path / "model.yaml", tmp_path / "gpu.yaml"
    shape = "layers: 2, hidden: 128, heads: 4, kv_heads: 4, head_dim: 32, vocab: 1000, parameters_b: 0.5, active_b: 0.5"
    limits = "memory_gib: 20, bandwidth_tbps: 1, bf16_tflops: 100, fp8_tflops: 0, fp4_tflops: 0, link_gbps: 32"
    model.write_text(f"{{name: mine, {shape}}}")
    gpu.write_text(f"{{name: card, {limits}}}")
    answer = json.loads(told("--model", str(model), "--gpu", str(gpu), "--json").output)["size"]
    assert (answer["model"], answer["gpu"], answer["memory_gib"]) == ("mine", "card", 18.0)
    gpu.write_text(f"{{name: card, memory: 3, {limits}}}")
    wrong = told("--model", str(model), "--gpu", str(gpu))
    assert wrong.exit_code == 2 and "gpu.yaml: memory: unknown field" in wrong.output
    gone = told("--model", str(tmp_path / "none.yaml"), "--gpu", "h100")
    assert gone.exit_code == 2 and "cannot be read" in gone.output


def test_the_name_of_a_checkpoint_tells_its_precision() -> None:
    assert usual_precision(QWEN, "nvidia/Qwen3.6-27B-NVFP4") is Precision.FP4
    assert usual_precision(QWEN, "Qwen/Qwen3.6-27B-FP8") is Precision.FP8
    assert usual_precision(QWEN, "Qwen/Qwen3.6-27B") is Precision.BF16
    assert usual_precision(model_named("gpt-oss-20b"), "gpt-oss-20b") is Precision.FP4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "qwen3-23b", "--gpu", "h100"], "did you mean 'qwen3-32b'"),
        (["--model", "qwen3-32b", "--gpu", "h101"], "--gpu: unknown GPU"),
        (["--model", "qwen3-32b", "--gpu", "h100", "--precision", "fp9"], "--precision: unknown precision"),
        (["--model", "qwen3-32b", "--gpu", "h100", "--kv-precision", "fp9"], "--kv-precision: 'fp9' is none of"),
        (["--model", "qwen3-32b", "--gpu", "h100", "--context", "long"], "--context: 'long' is not a number"),
        (["--model", "qwen3-32b", "--gpu", "h100", "--tp", "3"], "64 attention heads do not divide by TP=3"),
        (["--model", "qwen3-32b", "--gpu", "h100", "--tp", "2", "--dcp", "2"], "TP=2 keeps 1 of each"),
        (["--model", "qwen3-32b", "--gpu", "h100", "--dp", "2"], "--dp: ranks of one engine share experts"),
        (["--model", "qwen3-8b", "--gpu", "h100", "--prompt", "800"], "--output: '' is not of the form 800"),
        (["--model", "qwen3-8b", "--gpu", "h100", "--prompt", "8:9:1", "--output", "9"], "--prompt: least, mean"),
        (
            ["--model", "qwen3-8b", "--gpu", "h100", "--prompt", "8", "--output", "9", "--overflow", "x"],
            "--overflow: 'x' is not",
        ),
    ],
)
def test_mistakes_are_named(options: list[str], said: str) -> None:
    done = told(*options)
    assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize(
    ("asked", "layout"),
    [
        ("Qwen/Qwen3.6-27B --gpus 1 --precision fp8", "TP=1, fp8"),
        ("Qwen/Qwen3.6-27B --gpus 8 --precision fp8", "TP=1, DP=8, fp8"),
        ("Qwen/Qwen3.5-35B-A3B --gpus 8 --precision fp8", "TP=1, DP=8, EP=8, fp8"),
        ("Qwen/Qwen3.5-35B-A3B --gpus 8 --precision bf16", "TP=2, DP=4, EP=8, bf16"),
        ("Qwen/Qwen3.5-397B-A17B --gpus 16 --nodes 2 --precision fp8", "PP=2, TP=8, EP=8, fp8"),
        (
            "Qwen/Qwen3.5-397B-A17B --gpus 16 --nodes 2 --precision fp8 --long-context 128k",
            "PP=2, TP=8, EP=8, DCP=2, fp8",
        ),
        (
            "Qwen/Qwen3.5-397B-A17B --gpus 16 --nodes 2 --precision fp8 --long-prompt 128k",
            "PP=2, TP=4, EP=8, PCP=2, fp8",
        ),
    ],
)
def test_the_published_layouts_by_one_command(asked: str, layout: str) -> None:
    done = told("--gpu", "h100", "--model", *asked.split(), "--why")
    assert done.exit_code == 0, done.output
    assert f"layout by the rules     {layout}: " in done.output.splitlines()[0]
    answer = json.loads(told("--gpu", "h100", "--model", *asked.split(), "--json").output)
    assert answer["layouts"][0]["kept"] and answer["size"]["layout"] == answer["layouts"][0]["layout"]


def test_no_layout_at_all_is_told_with_every_reason() -> None:
    done = told("--model", "Qwen/Qwen3.5-397B-A17B", "--gpu", "rtx_pro_6000", "--gpus", "2", "--precision", "fp8")
    assert done.exit_code == 1 and "no layout of 2 rtx_pro_6000 holds it" in done.output
    assert "not TP=1" in done.output and "not TP=2" in done.output


def test_lengths_of_a_workload_file_and_windows_that_grow_no_further(tmp_path: Path) -> None:
    lengths = "prompt_tokens: [500, 1500], output_tokens: [100, 900]"
    (tmp_path / "load.yaml").write_text(f"{{kind: open_loop, rate: 50, duration: 20s, {lengths}}}")
    asked = ("--gpu", "h100", "--workload", str(tmp_path / "load.yaml"), "--json")
    plain = json.loads(told("--model", "qwen3-8b", *asked).output)["varied"]
    assert plain["prompt_tokens"] == pytest.approx(1000, rel=0.05) and plain["source"].endswith("requests of load.yaml")
    assert plain["sequences"] < plain["by_means"] and plain["overflow_by_means"] > 0.1
    small = json.loads(told("--model", "gpt-oss-20b", *asked).output)["varied"]
    one = sequence_bytes(model_named("gpt-oss-20b"), 1, 1500)
    assert small["mean_gb"] * 1e9 == pytest.approx(one, rel=0.2)  # half of its layers keep 128 tokens each


def test_a_model_of_windows_alone_has_sessions_but_no_tokens(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    more = {"vocab_size": 32_000, "intermediate_size": 14_336, "sliding_window": 4096, "model_type": "mistral"}
    (tmp_path / "config.json").write_text(json.dumps(shape | more))
    done = told("--model", str(tmp_path), "--gpu", "h100", "--prompt", "1000", "--output", "200")
    assert done.exit_code == 0 and "no layer keeps all of them" in done.output and "sequences that fit" in done.output


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(bytes(range(256))), "cannot be read"),
        (lambda path: path.write_text("["), "is not JSON"),
        (lambda path: path.write_text("[1]"), "no fields"),
        (lambda path: path.write_text("[" * 100_000), "is not JSON"),
        (lambda path: path.write_text('{"a":' + "9" * 5000 + "}"), "is not JSON"),
        (lambda path: path.write_bytes(b" " * (5 << 20)), "is larger than 4 MB"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (lambda path: path.mkdir(), "is no file"),
        (os.mkfifo, "is no file"),
    ],
)
def test_what_is_no_configuration_is_refused_in_words(
    tmp_path: Path, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / "it.json")
    refused = told("--model", str(tmp_path / "it.json"), "--gpu", "h100")
    assert refused.exit_code == 2 and said in refused.output, refused.output


def test_a_checkpoint_of_modelopt_says_its_precision_beside(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 128, "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"intermediate_size": 256}))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    assert json.loads(told("--model", str(tmp_path), "--gpu", "b200", "--json").output)["size"]["precision"] == "fp4"


def test_it_answers_at_once() -> None:
    """Start-up included. Processor time, as others use this machine too; the best of three."""

    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "pilothouse.cli", "size", "--model", "qwen3-32b", "--gpu", "h100"]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(3)) <= CPU_S_MAX


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")

    def unreachable(*_: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    done = told("--model", "nobody/has-this-model", "--gpu", "h100")
    assert done.exit_code == 2 and "the hub did not give its config.json: no network here" in done.output


def test_names_that_are_known_are_listed() -> None:
    listed = told("--model", "list").output
    assert all(name in listed for name in (*MODELS, *GPUS))
    assert "--gpu: is missing" in told("--model", "qwen3-8b").output


def test_a_context_that_the_model_does_not_take_is_told() -> None:
    model, gpu = MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"]
    told = tuple(size(model, gpu, Layout(tp=2), Precision.BF16, contexts=(length,)) for length in (32_768, 131_072))
    said = [any("40,960" in note for note in one.notes) for one in told]
    assert said == [False, True]
