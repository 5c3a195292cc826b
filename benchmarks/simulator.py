"""How fast is the simulator, and is it the same simulator when it is fast?

    python -m benchmarks.simulator [--quick] [--json] [--seed N]

The published ladder, with requests per second of processor time: a plain service that asks nobody (`kube_service`), and
the default policy with the KV index fed by every engine's events. Then the same without macro-steps, one step of every
engine at a time, and a comparison of every event, command and outcome of both. Step times are typical coefficients of
a 32B model on two H100s; how true they are is not the question here (see `fidelity`).
"""

import argparse
import gc
from hashlib import blake2b
from time import process_time

import msgspec

from benchmarks.fidelity import ladder_fleet
from benchmarks.headline import OURS, exact_pools
from benchmarks.report import finish, say, table
from pilothouse.core.commands import AnyCommand
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import AnyEvent
from pilothouse.core.selection import Profile
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.profiles import DEFAULT, PROFILES
from pilothouse.policies.rivals import CACHE_KNOWLEDGE, RIVALS
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Fleet, world
from pilothouse.workload.requests import Workload, total_requests
from pilothouse.workload.shared_prefix import Load, SharedPrefix, generate, guide_loads

STEP_TIME = StepTime(
    a_us=14_100, b_us=67, c_ns=48, p_us=47, rho=0.65, label="Estimated", source="benchmarks/fidelity.py"
)
SPEC = EngineSpec(STEP_TIME, 307_328 // 16)  # KV blocks as published for the ladder
CASES = {"kube_service": RIVALS["kube_service"], DEFAULT: PROFILES[DEFAULT], "llmd_default": RIVALS["llmd_default"]}
SAMPLE = [Load(20, 15), Load(40, 10), Load(60, 5)]  # idle, at the knee and beyond it


def fleet_for(name: str) -> Fleet:
    """Nobody hashes prompts for a plain service; for the others engines report their blocks."""
    if name == "kube_service":
        return ladder_fleet(SPEC, known=CACHE_KNOWLEDGE[name])
    return Fleet(exact_pools(ladder_fleet(SPEC)), OURS)


def seconds_of(name: str, profile: Profile, workload: Workload, *, macro_steps: bool = True) -> float:
    """Processor time of one run, without receipts, which nobody would read, and with the collector of cycles at rest,
    since a simulation makes none."""
    dispatcher = Dispatcher(DispatcherSettings(strict=True, why_max=0), profile)
    driver = world(fleet_for(name), dispatcher, workload, macro_steps=macro_steps)
    gc.collect()
    gc.disable()
    began = process_time()
    driver.run()
    seconds = process_time() - began
    gc.enable()
    return seconds


def story_of(name: str, profile: Profile, workload: Workload, *, macro_steps: bool) -> list[bytes]:
    """A digest of each event with its commands, then of each outcome."""
    story: list[bytes] = []

    def tell(what: object) -> None:
        story.append(blake2b(msgspec.msgpack.encode(what), digest_size=8).digest())

    def watch(event: AnyEvent, commands: list[AnyCommand]) -> None:
        tell((event, commands))

    driver = world(
        fleet_for(name), Dispatcher(DispatcherSettings(strict=True), profile), workload, watch, macro_steps=macro_steps
    )
    for result in driver.run():
        for outcome in result.outcomes:
            tell(outcome)
    return story


def differences(one: list[bytes], other: list[bytes]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short ladder, one run of each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    loads = [Load(20, 20), Load(40, 20), Load(60, 10)] if args.quick else guide_loads()
    ladder = generate(SharedPrefix(loads=loads), args.seed)
    sample = generate(SharedPrefix(loads=SAMPLE), args.seed)
    count, few = total_requests(ladder.stages), total_requests(sample.stages)
    figures: dict[str, float] = {"differences": 0}
    rows = []
    for name, profile in CASES.items():
        best = min(seconds_of(name, profile, ladder) for _ in range(1 if args.quick else 3))
        short = seconds_of(name, profile, sample)
        single = seconds_of(name, profile, sample, macro_steps=False)
        say(f"  {name}: {count} requests in {best:.2f} s of processor time")
        differing = differences(
            story_of(name, profile, sample, macro_steps=True), story_of(name, profile, sample, macro_steps=False)
        )
        figures[f"{name}_requests_per_s"] = count / best
        figures[f"{name}_faster_than_single_steps"] = single / short
        figures["differences"] += differing
        rows.append([name, f"{count / best:.0f}", f"{few / single:.0f}", f"{single / short:.1f}", str(differing)])
    columns = ["policy", "requests/s of processor", "in single steps", "ratio (sample)", "differences (sample)"]
    table("simulator, the published ladder on 8 replicas", columns, rows)
    finish(figures, {"kube_service_requests_per_s": (">=", 20_000), "differences": ("<=", 0)}, args.json)


if __name__ == "__main__":
    main()
