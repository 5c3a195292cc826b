"""Where a curve of latency over load bends: the load beyond which a fleet only queues."""

from collections.abc import Sequence

KNEE = 10.0  # mean TTFT this many times that of the lowest rung is past the knee; the rule of `benchmarks/fidelity.py`
RUNGS_MIN = 3  # fewer show no bend
RULE = (
    f"The knee is the highest load before mean TTFT first exceeds {KNEE:g} times its value at the lowest load shown; "
    f"it is looked for where there are at least {RUNGS_MIN} loads."
)


def knee(ttfts: Sequence[float]) -> int | None:
    """Index of the last rung before the bend, of mean TTFTs by rising load; None = it bends nowhere, or too few rungs."""
    if len(ttfts) < RUNGS_MIN or ttfts[0] <= 0:
        return None
    past = next((i for i, ttft in enumerate(ttfts) if ttft > KNEE * ttfts[0]), None)
    return None if past is None else past - 1
