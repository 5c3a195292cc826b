"""Constants and coefficients of `pilothouse/perf`, from published rows of closed loops.

    python -m benchmarks.silicon [--constants] [--table]

Prints each fit and its errors. `--constants` prints those of `perf/priors.py`; then `--table` the lines of
`perf/fitted.py`, which are held to them.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from benchmarks.report import say, table
from pilothouse.perf.catalog import gpu_named, model_named, precision_named
from pilothouse.perf.fit import Row, fit_constants, fits, held_out, mean_error, tpot_us
from pilothouse.perf.priors import estimate
from pilothouse.plan.document import Layout

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
CONCURRENCY_MAX = 256  # above it the measured engines admitted only part of the load
DOUBTFUL = {
    "Qwen/Qwen3-235B-A22B": "implausible in layout and several times as slow as the roofline",
    "meta-llama/Llama-3.1-8B": "implausible in recorded concurrency",
}  # of the trained file
WAITING_MAX = 0.25  # requests in the mean: above it the cache was too small for the recorded concurrency
OVERFULL = "TTFT says that requests waited for room in the cache"
FLAGS = {
    "conc_gt_256": "more concurrency than the engine admitted",
    "kv_overflow": "the cache overflowed",
    "mixed_parallelism": "attention and experts on different numbers of GPUs",
    "outlier": "a repeat was four times faster",
    "no_concurrency": "concurrency not recorded",
}


class Measured(Struct, frozen=True):
    """One line of the file."""

    row: Row  # concurrency: of one data-parallel rank
    layout: Layout
    ttft_ms: float  # 0 = not recorded
    doubtful: str  # why nothing is fitted on it; "" = it may be


def read(path: Path) -> tuple[list[Measured], Counter[str]]:
    """Rows that can be predicted, and of the others why not and how many."""
    rows, left_out = list[Measured](), Counter[str]()
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            found = _measured({name: (value or "").strip() for name, value in line.items() if name})
            if isinstance(found, str):
                left_out[found] += 1
            else:
                rows.append(found)
    return rows, left_out


def _measured(line: dict[str, str]) -> Measured | str:
    """A row, or why it is none."""
    if flag := line.get("flag"):
        return FLAGS.get(flag, f"flag {flag}")
    try:
        model, gpu = model_named(line["model"]), gpu_named(line["system"])
        precision = precision_named(line["precision"])
    except KeyError as error:
        return str(error.args[0]).partition(", ")[0]
    tp, dp, tp_experts, ep = (_number(line, name) for name in ("tp", "dp", "moe_tp", "moe_ep"))
    concurrency = _number(line, "concurrency") or _number(line, "batch_size")
    prompt, output, tpot_ms = (_number(line, name) for name in ("isl", "osl", "tpot_ms"))
    if not (tp and concurrency and prompt and output and tpot_ms):
        return "a number is missing: tp, concurrency, isl, osl or tpot_ms"
    dp = dp or 1.0
    if model.experts and tp_experts and ep and tp_experts * ep != tp * dp:
        return FLAGS["mixed_parallelism"]
    rank = max(1, round(concurrency / dp))
    if rank > CONCURRENCY_MAX:
        return FLAGS["conc_gt_256"]
    layout = Layout(tp=int(tp), dp=int(dp), expert_parallel=bool(model.experts) and ep > 1)
    row = Row(model, gpu, precision, int(tp), prompt, output, rank, tpot_ms)
    ttft_ms = _number(line, "ttft_ms")
    doubt = DOUBTFUL.get(model.name) or (OVERFULL if _waiting(row, ttft_ms) > WAITING_MAX else "")
    return Measured(row, layout, ttft_ms, doubt)


def _waiting(row: Row, ttft_ms: float) -> float:
    """Requests that waited for room, by Little's law: TTFT beyond what it were if all prompts came at one time."""
    of = estimate(row.model, row.gpu, row.tp, row.precision)
    work = of.p_us * row.isl + of.q_ps / 1e6 * row.isl**2 / 2
    at_once_us = (row.concurrency + 1) / 2 * (work + tpot_us(of, 0, row.osl, row.concurrency))
    return row.concurrency * (ttft_ms - at_once_us / 1e3) / (ttft_ms + row.osl * row.tpot_ms)


def _number(line: dict[str, str], name: str) -> float:
    try:
        return float(line.get(name) or 0)
    except ValueError:
        return 0.0


def silicon(path: Path = SHARED / "silicon_train.csv") -> list[Row]:
    """The measured rows that are fit to be fitted."""
    return [of.row for of in read(path)[0] if of.layout == Layout(tp=of.row.tp) and not of.doubtful]


def step_times(rows: list[Row], figures: dict[str, float]) -> None:
    """Fits every configuration and says how well."""
    found = fits(rows)
    shown = [
        [f.model, f"{f.precision} {f.gpu} TP{f.tp}", str(f.rows), f"{f.a_us / 1000:.2f}", f"{f.b_us:.1f}",
         f"{f.c_ns:.1f}", f"{f.p_us:.1f}", f"{f.q_ps:.0f}", f"{f.expert_us:.1f}", f"{f.error:.1%}"]
        for f in found
    ]  # fmt: skip
    columns = ["model", "configuration", "rows", "a ms", "b µs", "c ns", "p µs", "q ps", "expert µs", "error"]
    table("step time, fitted on measured rows (Estimated)", columns, shown)
    figures["silicon_tpot_in_fit"] = sum(f.error * f.rows for f in found) / sum(f.rows for f in found)
    out = [(row, of) for row, of in held_out(rows, lambda row: (row.model.name, row.tp)) if "scaled" in of.label]
    predicted = [tpot_us(of, row.isl, row.osl, row.concurrency) for row, of in out]
    figures["silicon_tpot_leaving_tp_out"] = mean_error([row for row, _ in out], predicted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constants", action="store_true", help="for pilothouse/perf/priors.py")
    parser.add_argument("--table", action="store_true", help="lines for pilothouse/perf/fitted.py")
    args = parser.parse_args()
    if args.constants:
        print(", ".join(f"{name}={value:g}" for name, value in asdict(fit_constants(silicon())).items()))
        return
    if args.table:
        for f in fits(silicon()):
            print(
                f'    Fitted("{f.model}", "{f.precision}", "{f.gpu}", {f.tp}, {f.a_us:g}, {f.b_us:g}, {f.c_ns:g}, '
                f"{f.p_us:g}, {f.q_ps:g}, {f.expert_us:g}, {f.rows}, {f.error:g}),"
            )
        return
    figures: dict[str, float] = {}
    step_times(silicon(), figures)
    for name, value in figures.items():
        say(f"  {name} = {value:.4f}")


if __name__ == "__main__":
    main()
