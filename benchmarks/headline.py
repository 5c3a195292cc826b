"""The headline, simulated: our default policy against a plain service, on the fleet and workload of the llm-d guide.

    python -m benchmarks.headline [--quick] [--json] [--seed N]

High load is every rung from 40 requests per second on. Both policies meet the same requests at the same times.
"""

import argparse

import msgspec

from benchmarks.fidelity import OVERHEAD_US, climb, guide_engine, ladder_fleet
from benchmarks.report import finish, say, table
from pilothouse.core.units import SECOND, Micros
from pilothouse.policies.profiles import DEFAULT, PROFILES
from pilothouse.policies.rivals import CACHE_KNOWLEDGE, RIVALS
from pilothouse.sim.delays import Delays
from pilothouse.sim.world import Fleet, Pool
from pilothouse.workload.shared_prefix import guide_loads

HIGH = 40.0  # requests per second
OURS = Delays(OVERHEAD_US, Micros(500), Micros(5_000), Micros(SECOND), Micros(5_000))  # signals as late as live


def exact_pools(fleet: Fleet) -> list[Pool]:
    """The same engines, reporting their KV blocks."""
    return [msgspec.structs.replace(pool, exact=True, index_blocks=None) for pool in fleet.pools]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rungs of high load only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    loads = [load for load in guide_loads() if load.reported]
    loads = [load for load in loads if load.rate in (40, 60)] if args.quick else loads
    spec = guide_engine()
    say("  everything below is Simulated")
    plain = climb(ladder_fleet(spec, known=CACHE_KNOWLEDGE["kube_service"]), RIVALS["kube_service"], loads, args.seed)
    ours = climb(Fleet(exact_pools(ladder_fleet(spec)), OURS), PROFILES[DEFAULT], loads, args.seed)
    rows = [
        [f"{p.offered_rate:g}", f"{p.output_per_second:.0f}", f"{o.output_per_second:.0f}",
         f"{o.output_per_second / p.output_per_second:.2f}", f"{p.ttft.mean:.3f}", f"{o.ttft.mean:.3f}",
         f"{1 - o.ttft.mean / p.ttft.mean:.1%}", f"{p.tpot.mean * 1e3:.1f}", f"{o.tpot.mean * 1e3:.1f}",
         f"{p.hit_ratio:.0%}", f"{o.hit_ratio:.0%}"]
        for p, o in zip(plain, ours, strict=True)
    ]  # fmt: skip
    columns = ["req/s", "tok/s service", DEFAULT, "ratio", "TTFT s", DEFAULT, "lower by", "ITL ms", DEFAULT, "hits", ""]
    table(f"kube service against {DEFAULT} (Simulated)", columns, rows)
    high = [(p, o) for p, o in zip(plain, ours, strict=True) if p.offered_rate >= HIGH]
    ratios = [o.output_per_second / p.output_per_second for p, o in high]
    lower = [1 - o.ttft.mean / p.ttft.mean for p, o in high]
    figures = {"throughput_ratio": sum(ratios) / len(ratios), "ttft_lower_by": sum(lower) / len(lower)}
    finish(figures, {"throughput_ratio": (">=", 2.0), "ttft_lower_by": (">=", 0.99)}, args.json)


if __name__ == "__main__":
    main()
