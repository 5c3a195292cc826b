"""Coefficients of `pilothouse/perf/fitted.py`, from the published rows.

    python -m benchmarks.silicon [--table]

Prints each fit, and TPOT errors in fit and leaving a tensor-parallel degree out; `--table` prints the lines of the file.
"""

import argparse
import csv
from pathlib import Path

from benchmarks.report import say, table
from pilothouse.perf.catalog import gpu_named, model_named, precision_named
from pilothouse.perf.fit import Row, fits, leave_one_tp_out, mean_error

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
CONCURRENCY_MAX = 256  # above it the measured engines admitted only part of the load
LEFT_OUT = ("Qwen3-235B", "Llama-3.1-8B")  # implausible in layout, and in recorded concurrency


def silicon(path: Path = SHARED / "silicon_train.csv") -> list[Row]:
    """The measured rows that are fit to be fitted."""
    with path.open() as file:
        plain = [r for r in csv.DictReader(file) if not r["flag"] and int(float(r["concurrency"])) <= CONCURRENCY_MAX]
    return [
        Row(
            model_named(r["model"]),
            gpu_named(r["system"]),
            precision_named(r["precision"]),
            int(r["tp"]),
            float(r["isl"]),
            float(r["osl"]),
            int(float(r["concurrency"])),
            float(r["tpot_ms"]),
        )
        for r in plain
        if not any(name in r["model"] for name in LEFT_OUT)
    ]


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
    out = leave_one_tp_out(rows, lambda row: True)
    figures["silicon_tpot_leaving_tp_out"] = mean_error([r for r, _ in out], [us for _, us in out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="lines for pilothouse/perf/fitted.py")
    args = parser.parse_args()
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
