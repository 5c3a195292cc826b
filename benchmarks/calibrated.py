"""Is a calibrated simulation true? Two real vLLM replicas behind the gateway, and the same two simulated.

    python -m benchmarks.calibrated [--quick] [--json] [--rounds N] [--requests N]

Both replicas are calibrated at the same time, since they also serve at the same time and share this machine's cores with
the gateway and the client: each is as slow as its neighbour makes it, and nothing else stands for that in the model.
Calibrations lie before, between and after the measured rounds, for the machine is not equally busy all the time. A closed
loop with more shared prefixes than one replica's cache holds is sent under two policies, and simulated from the fit of
all readings. Engines are fresh for each policy and round; policies take turns.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import fmean, median

import msgspec
import uvloop

from benchmarks.report import Target, finish, say, table
from pilothouse.bench.run import Bench, Origin
from pilothouse.bench.settings import Api, Prompts, Settings
from pilothouse.build import simulate
from pilothouse.config.scenario import Lateness, Replicas, Scenario
from pilothouse.config.values import Duration
from pilothouse.experiments.calibrate import Asked, Measured, calibrate
from pilothouse.perf.fit import fit_readings
from pilothouse.perf.step_time import StepTime
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.outcomes import Run
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe
from rig.engines import Engine, Rig, wait_until
from rig.gateways import Gateway, fleet
from rig.model import LARGER, tiny_model

POLICIES = ("cache_and_load", "random")
BLOCKS, BLOCK, BATCHED, SEQUENCES = 420, 32, 1024, 16  # of each replica
USERS, PREFIXES, PREFIX_TOKENS, OUTPUT_TOKENS = 4, 12, 1280, 16  # eight or nine prefixes fit in one cache
TOKEN_IDS = (300, 4000)  # of the rig's small models
FIGURES = ("ttft mean s", "ttft p50 s", "itl mean s", "requests/s", "hits")


def recipe(requests: int) -> Recipe:
    """Shared beginnings, a little of one's own, short answers; each user waits for the last answer."""
    return Recipe(
        OpenLoop(
            phases=[Phase(users=USERS, count=requests)], prompt_tokens=(24, 60), output_tokens=(OUTPUT_TOKENS, OUTPUT_TOKENS),
            prefixes=PREFIXES, prefix_tokens=PREFIX_TOKENS, model="tiny", block_size=BLOCK,
        )
    )  # fmt: skip


def measure(rig: Rig, engines: list[Engine], policy: str, made: Recipe, seed: int) -> Run:
    """On fresh engines, through the gateway."""
    fresh(rig, engines)
    config = fleet(*(engine.url for engine in engines), policy=policy)
    with tempfile.TemporaryDirectory() as folder, Gateway.start(Path(folder), config) as gateway:
        assert wait_until(gateway.is_steering, 30), gateway.said()
        settings = Settings(url=gateway.url, api=Api.COMPLETIONS, prompts=Prompts.TOKENS, vocabulary=TOKEN_IDS)
        origin = Origin("calibrated", 1.0, seed)
        uvloop.run(
            Bench(recipe(USERS).make(1000 + seed), settings, origin, lambda load, stages: None).run()
        )  # warms up
        run = uvloop.run(Bench(made.make(seed), settings, origin, lambda load, stages: None).run())
    assert not run.stages[0].summary.refused, f"{run.stages[0].summary.refused} requests failed: {run.stages[0].notes}"
    return run


def fresh(rig: Rig, engines: list[Engine]) -> None:
    for engine in engines:
        if engine.alive:
            engine.kill()
        rig.restart(engine)
    for engine in engines:
        engine.wait_ready()


def readings(engines: list[Engine], seconds: float) -> list[Measured]:
    """One calibration of each replica, taken while both are busy."""

    async def both() -> list[Measured]:
        asked = [
            Asked(url=engine.url, model="tiny", seconds=seconds, quick=True, batched_tokens=BATCHED)
            for engine in engines
        ]
        return await asyncio.gather(*(calibrate(one, lambda what, share: None) for one in asked))

    say(f"  calibrating both at once for {seconds:.0f} s ...")
    return asyncio.run(both())


def simulated(file: Path, found: StepTime, policy: str, made: Recipe, seed: int) -> Run:
    scenario = Scenario(
        name="calibrated",
        pools=[
            Replicas(name="cpu", replicas=2, kv_blocks=BLOCKS - 1, block_size=BLOCK, batched_tokens=BATCHED,
                     sequences=SEQUENCES, step_time=str(file))
        ],
        delays=Lateness(client=Duration(int(found.request_us))),
        workload={},
    )  # fmt: skip
    return simulate(scenario, made, policy, 1.0, seed)


def figures_of(runs: list[Run]) -> list[float]:
    """Medians over rounds, in the order of FIGURES."""
    summaries = [run.stages[0].summary for run in runs]
    columns = [(s.ttft.mean, s.ttft.p50, s.itl.mean, s.achieved_rate, s.hit_ratio) for s in summaries]
    return [median(column) for column in zip(*columns, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=96)
    args = parser.parse_args()
    rounds, requests, seconds = (1, 36, 15.0) if args.quick else (args.rounds, args.requests, 30.0)
    made = recipe(requests)
    real: dict[str, list[Run]] = {policy: [] for policy in POLICIES}
    model: dict[str, list[Run]] = {policy: [] for policy in POLICIES}
    with Rig() as rig, tempfile.TemporaryDirectory() as folder:
        say("building the model and starting two vLLM replicas ...")
        limits = {"--num-gpu-blocks-override": BLOCKS, "--max-model-len": 4096, "--max-num-batched-tokens": BATCHED}
        arguments = [str(word) for pair in limits.items() for word in pair]
        engines = [rig.start(tiny_model(shape=LARGER), args=arguments) for _ in range(2)]
        for engine in engines:
            engine.wait_ready()
        measured = readings(engines, seconds)
        for i in range(rounds):
            for policy in POLICIES if i % 2 == 0 else POLICIES[::-1]:
                real[policy].append(measure(rig, engines, policy, made, seed=i + 1))
                say(f"  round {i + 1}, {policy}: {real[policy][-1].stages[0].summary.achieved_rate:.2f} requests/s")
            fresh(rig, engines)
            measured += readings(engines, seconds)
        taken = [reading for one in measured for reading in one.readings]
        source = f"both replicas at once, {len(taken)} trials, {measured[0].version}"
        found, file = fit_readings(taken, BATCHED, source), Path(folder) / "step-time.json"
        file.write_bytes(msgspec.json.encode(found))
        say(f"  {msgspec.json.encode(found).decode()}")
        for i in range(rounds):
            for policy in POLICIES:
                model[policy].append(simulated(file, found, policy, made, seed=i + 1))
    report(real, model, found, args.json)


def report(real: dict[str, list[Run]], model: dict[str, list[Run]], found: StepTime, as_json: bool) -> None:
    figures = {"calibration_in_fit": found.error or 0.0, "calibration_left_out": found.error_left_out or 0.0}
    rows, gains = [], {}
    for policy in POLICIES:
        pair = figures_of(real[policy]), figures_of(model[policy])
        gains[policy] = [(values[0], values[3]) for values in pair]
        for name, measured, simulated_ in zip(FIGURES, *pair, strict=True):
            ratio = simulated_ / measured if measured else 0.0
            rows.append([policy, name, f"{measured:.3g}", f"{simulated_:.3g}", f"{ratio:.2f}"])
            figures[f"{policy}_{name.replace(' ', '_').replace('/', '_per_')}_ratio"] = ratio
        figures[f"{policy}_hits_apart"] = abs(pair[0][-1] - pair[1][-1])
    table("two replicas on this machine", ["policy", "figure", "Measured", "Simulated", "ratio"], rows)
    ours, other = (gains[policy] for policy in POLICIES)
    for i, name in enumerate(("measured", "simulated")):
        figures[f"ttft_gain_{name}"] = other[i][0] / ours[i][0]
        figures[f"throughput_gain_{name}"] = ours[i][1] / other[i][1]
        say(f"  {POLICIES[0]} against {POLICIES[1]}, {name}: TTFT {figures[f'ttft_gain_{name}']:.2f} times shorter, "
            f"throughput {figures[f'throughput_gain_{name}']:.2f} times")  # fmt: skip
    off = fmean(abs(value - 1) for name, value in figures.items() if name.endswith("_ratio"))
    say(f"  figures are {off:.0%} apart on average; absolute times follow what else this machine does")
    targets: dict[str, Target] = {f"{policy}_hits_apart": ("<=", 0.1) for policy in POLICIES}
    finish(figures, targets, as_json)


if __name__ == "__main__":
    main()
