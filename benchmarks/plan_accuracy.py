"""How far the planner's sums are off: against measured rows, and against simulation over a grid.

    python -m benchmarks.plan_accuracy [--silicon FILE] [--quick | --no-grid] [--json]

Silicon rows are closed loops of one engine at a fixed concurrency: TPOT by the sums at that batch, where prompts come as
fast as answers end, and how many rows lie within the bands that a plan would print. Of the rows that constants and
coefficients were fitted on, the same with fits that have not seen a part: a configuration, a degree of tensor parallelism,
a precision, a model on a GPU, a model. KV capacity is compared with the measurements published by llm-d-planner, KV bytes
of a token with published configurations. The grid (`plan_grid.py`) is an open loop: percentiles by sums and in simulation.
"""

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path
from statistics import fmean

from benchmarks.fidelity import KV_MEASURED
from benchmarks.plan_grid import grid
from benchmarks.report import Target, finish, say, table
from benchmarks.silicon import SHARED, Measured, read, silicon
from pilothouse.perf.catalog import GPUS, MODELS, model_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.fit import Row, held_out, tpot_us
from pilothouse.perf.memory import Precision, kv_bytes_per_token
from pilothouse.perf.step_time import StepTime, distinct_experts
from pilothouse.plan.document import Layout
from pilothouse.plan.engines import BAND_LAYOUT, band_tpot, spread_times, unmeasured
from pilothouse.plan.memory import held

TRAINED = SHARED / "silicon_train.csv"
GROUPED = (
    0.28  # of a closed loop's prompts wait for each other, as equal answers end together: fitted on the trained rows
)
CHUNK = 8192  # tokens of a prompt in one step
SPLITS: dict[str, Callable[[Row], object]] = {
    "configuration": lambda row: row.configuration,
    "tp": lambda row: (row.model.name, row.tp),
    "precision": lambda row: (row.model.name, row.precision),
    "model_on_gpu": lambda row: (row.model.name, row.gpu.name),
    "model": lambda row: row.model.name,
}
TARGETS: dict[str, Target] = {
    "silicon_tpot": ("<=", 0.07),  # of rows that the fits have seen; more of others
    "silicon_in_band": (">=", 0.85),  # bands are made to hold nine in ten
    "kv_capacity": ("<=", 0.03),
    "kv_bytes_per_token": ("<=", 0.0),
    "grid_tpot": ("<=", 0.10),
    "grid_ttft": ("<=", 0.15),
    "grid_unsaid": ("<=", 0.0),  # points that are more than 10 % off, of which a plan would say nothing
} | {f"holdout_{split}": ("<=", 0.12) for split in SPLITS}


def closed_loop(of: Measured) -> tuple[StepTime, float, float]:
    """(step times of a rank, mean TTFT, mean TPOT) [microseconds]."""
    row, batch = of.row, of.row.concurrency
    times = spread_times(step_time(row.model, row.gpu, row.tp, row.precision), row.model, row.gpu, of.layout)
    tpot = tpot_us(times, row.isl, row.osl, batch)
    decode = tpot_us(times, 0, row.osl, batch) + times.c_ns * batch * row.isl / 1e3
    work = times.b_us + times.p_us * row.isl + times.q_ps / 1e6 * row.isl**2 / 2
    experts = times.expert_us * (times.experts - distinct_experts(times.experts, times.experts_per_token, batch))
    ttft = work + ceil(row.isl / CHUNK) * (decode + experts) + decode / 2 + GROUPED * work * (batch - 1) / 2
    return times, ttft, tpot


def measured_rows(path: Path, figures: dict[str, float]) -> None:
    rows, left_out = read(path)
    for reason, count in left_out.most_common():
        say(f"  left out, {count} rows: {reason}")
    for reason, count in Counter(of.doubtful for of in rows if of.doubtful).most_common():
        say(f"  apart, {count} rows: {reason}")
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)  # (error, band)
    figure: dict[str, list[float]] = defaultdict(list)
    for of in rows:
        times, ttft, tpot = closed_loop(of)
        error, row = tpot / 1e3 / of.row.tpot_ms - 1, of.row
        band = band_tpot(times) + BAND_LAYOUT * len(unmeasured(of.layout))
        wide = ", ".join(unmeasured(of.layout))
        name = f"{row.model.name} {row.precision} {row.gpu.name} TP{row.tp} {wide} {times.label}"
        found[name + (" (doubtful rows)" if of.doubtful else "")].append((error, band))
        figure["silicon_tpot_doubtful" if of.doubtful else "silicon_tpot"].append(abs(error))
        if not of.doubtful:
            figure[f"silicon_tpot_{times.label.split('(')[-1].strip(')')}"].append(abs(error))
            figure["silicon_in_band"].append(abs(error) <= band)
            if of.ttft_ms:
                figure["silicon_ttft"].append(abs(ttft / 1e3 / of.ttft_ms - 1))
    columns = ["configuration", "rows", "bias", "error", "largest", "band", "within"]
    table(f"TPOT by sums against {len(rows)} measured rows", columns, [_line(*item) for item in sorted(found.items())])
    figures |= {name: fmean(values) for name, values in figure.items()}


def _line(name: str, found: list[tuple[float, float]]) -> list[str]:
    errors = [error for error, _ in found]
    sizes = [abs(error) for error in errors]
    within = fmean(abs(error) <= band for error, band in found)
    return [
        name, str(len(found)), f"{fmean(errors):+.1%}", f"{fmean(sizes):.1%}", f"{max(sizes):.1%}",
        f"{fmean(band for _, band in found):.0%}", f"{within:.0%}",
    ]  # fmt: skip


def holdout(figures: dict[str, float]) -> None:
    """Constants and coefficients are fitted anew for each part, without it."""
    rows, lines, kinds = silicon(), list[list[str]](), defaultdict[str, list[tuple[float, float]]](list)
    for split, part in SPLITS.items():
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row, times in held_out(rows, part):
            error = tpot_us(times, row.isl, row.osl, row.concurrency) / 1e3 / row.tpot_ms - 1
            kind = f"{times.label.removeprefix('Estimated ')}, {'experts' if times.experts else 'dense'}"
            found[kind].append((error, band_tpot(times)))
            kinds[kind].append((error, band_tpot(times)))
        lines += [_line(f"{split}: {kind}", of) for kind, of in sorted(found.items())]
        figures[f"holdout_{split}"] = fmean(abs(error) for of in found.values() for error, _ in of)
    for kind, of in kinds.items():
        figures[f"holdout_in_band_{kind.strip('()').replace('), ', '_')}"] = fmean(abs(e) <= band for e, band in of)
    table(
        "TPOT of rows left out of the fits", ["left out", "rows", "bias", "error", "largest", "band", "within"], lines
    )


def kv_capacity(figures: dict[str, float]) -> None:
    rows, errors = [], []
    for name, tp, precision, utilisation, measured in KV_MEASURED:
        gib = held(MODELS[name], GPUS["h100_sxm"], Layout(tp=tp), Precision(precision), utilisation).kv
        errors.append(abs(gib / measured - 1))
        rows.append([name, str(tp), precision, f"{measured:.2f}", f"{gib:.2f}", f"{gib / measured - 1:+.1%}"])
    table("KV space on H100 [GiB per GPU]", ["model", "TP", "weights", "Measured", "Estimated", "error"], rows)
    figures["kv_capacity"] = fmean(errors)


def kv_bytes(path: Path, figures: dict[str, float]) -> None:
    """Growing and window layers of every model published exactly, bf16, against ours; the largest error."""
    with path.open(newline="") as file:
        published = [line for line in csv.DictReader(file) if line["status"] != "approximate"]
    errors = list[float]()
    for line in published:
        model = model_named(line["model"])
        windows = model.window_layers * 2 * model.kv_heads * model.head_dim * 2
        ours = {"kv_bytes_per_token_bf16_fullattn": kv_bytes_per_token(model, 1), "swa_bytes_per_token_bf16": windows}
        errors += [abs(value - float(line[name] or 0)) for name, value in ours.items()]
        if max(errors[-2:]):
            say(f"  {model.name}: {ours} are published as {[line[name] for name in ours]}")
    say(f"  KV bytes of a token of {len(published)} published models: the largest difference is {max(errors):g}")
    figures["kv_bytes_per_token"] = max(errors)


def missing(paths: Iterable[Path]) -> bool:
    absent = [path for path in paths if not path.is_file()]
    for path in absent:
        say(f"skipped: there is no {path.name}")
    return bool(absent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silicon", type=Path, default=TRAINED, help="rows of the same columns")
    parser.add_argument("--no-grid", action="store_true", help="no simulation")
    parser.add_argument("--quick", action="store_true", help="a part of the grid")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    if not missing([args.silicon]):
        measured_rows(args.silicon, figures)
    if not missing([TRAINED]):
        holdout(figures)
    kv_capacity(figures)
    if not missing([SHARED / "models.csv"]):
        kv_bytes(SHARED / "models.csv", figures)
    if not args.no_grid:
        grid(figures, args.quick)
    finish(figures, TARGETS, args.json)


if __name__ == "__main__":
    main()
