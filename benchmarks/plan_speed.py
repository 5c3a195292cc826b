"""How long the planner takes, as a person waits for it: whole commands, start-up included.

    python -m benchmarks.plan_speed [--quick] [--json]

A search is for 16 GPUs with the best plans simulated, at 95th percentiles: one for a dense model, one for a large mixture of
experts over two nodes; the slowest counts. Seconds are of the wall clock on this machine, with whatever else runs on it; CPU
seconds stand beside them.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Target, finish, say, table

HERE = Path(__file__).parents[1]
WORKLOADS = HERE / "examples" / "workloads"
CASES = [
    (model, workload)
    for model in ("Qwen/Qwen3-32B", "Qwen/Qwen3.5-397B-A17B")
    for workload in ("chat.yaml", "rag.yaml")
]
SIZES = 7  # runs of `size`, of which the middle one counts
TARGETS: dict[str, Target] = {"search_16_gpus_s": ("<=", 10.0), "size_s": ("<=", 0.3)}


def took(*words: str) -> tuple[float, float]:
    """(seconds, CPU seconds with those of its processes) of one command."""
    command = [sys.executable, "-m", "pilothouse.cli", *words]
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=HERE, check=True, capture_output=True)
    seconds, after = time.perf_counter() - start, os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return seconds, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one search")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows: list[list[str]] = []
    searches: list[float] = []
    for model, workload in CASES[:1] if args.quick else CASES:
        say(f"  searching for {model}, {workload}")
        limits = ["--ttft-p95", "2s", "--tpot-p95", "50ms"]
        seconds, cpu = took(
            "plan", "--model", model, "--gpu", "h100", "--gpus", "16", "--workload", str(WORKLOADS / workload), *limits
        )
        searches.append(seconds)
        rows.append([f"plan {model}, {workload}", f"{seconds:.2f}", f"{cpu:.2f}"])
    sizes = [took("size", "--model", "Qwen/Qwen3-32B", "--gpu", "h100") for _ in range(SIZES)]
    rows.append(["size Qwen/Qwen3-32B", f"{median(s for s, _ in sizes):.2f}", f"{median(cpu for _, cpu in sizes):.2f}"])
    table(f"Measured on {os.cpu_count()} cores", ["command", "wall s", "CPU s"], rows)
    figures = {"search_16_gpus_s": max(searches), "size_s": median(seconds for seconds, _ in sizes)}
    finish(figures, TARGETS, args.json)


if __name__ == "__main__":
    main()
