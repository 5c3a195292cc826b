"""Prefill and decode on two real vLLM engines, through the gateway: are the tokens right, and what does it do to others?

    python -m benchmarks.pd_real [--quick] [--json] [--requests N] [--rounds N] [--decider NAME] [--skip tokens|interference]

Tokens: varied greedy requests (completions and chat, streamed and not, 1 to 3,000 tokens, with and without common
beginnings) through a NIXL pair that must split every one of them, against one engine that exchanges nothing. One at a time,
where the tokens that the decode engine has fetched are counted and must be those of the prompt that it did not have; then
eight at a time. A batch changes the order of bfloat16 sums, so a token may differ where the two best are within that noise
of each other: each difference is shown with the gap of their log probabilities at the engine that is right by definition.

Interference: chats that stream while prompts of 8,000 tokens arrive, on a pair against two engines that both do all. Each
engine has one of two cores to itself in both arrangements; gateway and client share them. Figures are ratios of the same
round, the two take turns in going first, and the median over rounds counts: the machine is shared.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.pd_interference import Interference, interference
from benchmarks.pd_tokens import Tokens, tokens
from benchmarks.report import Target, finish, say, table
from rig.engines import Rig

DIFFERENCE_GAP_MAX = (
    0.0625  # of log probabilities: two steps of bfloat16 logits between 4 and 8, where the best ones lie
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests and one short round, within a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=200, help="one at a time, and as many again eight at a time")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--decider", default="threshold", help="of the pair under interference")
    parser.add_argument("--skip", choices=["tokens", "interference"])
    args = parser.parse_args()
    requests, rounds, long_prompts = (24, 1, 2) if args.quick else (args.requests, args.rounds, 8)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Rig() as rig:
        if args.skip != "tokens":
            figures |= show_tokens(asyncio.run(tokens(rig, Path(folder) / "tokens", requests)))
        if args.skip != "interference":
            figures |= show_interference(interference(rig, Path(folder), rounds, long_prompts, args.decider))
    targets: dict[str, Target] = {
        "differences_alone": ("<=", 0),
        "differences_unexplained": ("<=", 0),
        "fetched_wrong": ("<=", 0),
        "not_split": ("<=", 0),
    }
    finish(figures, targets, args.json)


def show_tokens(found: list[Tokens]) -> dict[str, float]:
    rows = []
    for each in found:
        fetched = f"{each.fetched:,} of {each.wanted:,}" if each.wanted else f"{each.fetched:,}"
        cells = [each.name, f"{each.requests}", f"{each.prompt_tokens:,}", f"{len(each.gaps)}", fetched]
        rows.append([*cells, f"{each.fetched_wrong}" if each.wanted else "", f"{each.not_split}"])
        for gap in sorted(each.gaps, reverse=True):
            say(f"  {each.name}: a difference where the two best tokens are {gap:.4f} apart in log probability")
    columns = ["", "requests", "prompt tokens", "differences", "tokens fetched", "other counts fetched"]
    table("Greedy tokens: a NIXL pair behind the gateway against one engine (Measured)", [*columns, "not split"], rows)
    alone, *_ = found
    gaps = [gap for each in found for gap in each.gaps]
    return {
        "differences_alone": len(alone.gaps),
        "differences": len(gaps),
        "differences_unexplained": sum(gap > DIFFERENCE_GAP_MAX for gap in gaps),
        "fetched_wrong": alone.fetched_wrong,
        "fetched_share": alone.fetched / alone.prompt_tokens,
        "not_split": sum(each.not_split for each in found),
    }


def show_interference(found: Interference) -> dict[str, float]:
    rows = [
        [name, f"{run.itl_ms(0.5):.1f}", f"{run.itl_ms(0.99):.1f}", f"{run.itl_ms(0.999):.1f}", f"{run.chat_ttft_ms:.0f}",
         f"{run.long_ttft_ms:.0f}", f"{run.tokens_per_s:.0f}", f"{run.split} of {run.long_prompts}"]
        for name, run in found.pooled.items()
    ]  # fmt: skip
    columns = ["", "chats' ITL p50 ms", "p99", "p99.9", "chats' TTFT p50 ms", "long prompts' TTFT p50 ms"]
    title = (
        f"{found.chats} chats while prompts of {found.long_tokens:,} tokens arrive, {found.rounds} rounds (Measured)"
    )
    table(title, [*columns, "chats' tokens/s", "long prompts split"], rows)
    return found.ratios


if __name__ == "__main__":
    main()
