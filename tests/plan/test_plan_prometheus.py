"""Against a real Prometheus, filled with two days of a fleet: `prometheus` and `promtool` on the PATH, else skipped."""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from math import pi, sin
from pathlib import Path

import pytest

from pilothouse.config.workload import read_workload
from pilothouse.plan import prometheus
from pilothouse.plan.asks import asks_of
from pilothouse.plan.prometheus import Wanted
from pilothouse.plan.source import read_source
from pilothouse.workload.profile import describe

if not (shutil.which("prometheus") and shutil.which("promtool")):
    pytest.skip("no prometheus and promtool on the PATH", allow_module_level=True)

DAYS, STEP_S = 2, 300
EDGES = [100, 200, 500, 1000, 2000, 5000]
SHARES = [
    0.0,
    0.25,
    0.5,
    1.0,
    1.0,
    1.0,
]  # of the prompts up to each edge: 150, 300 and 800 tokens on average, by buckets
MEAN = 0.25 * 150 + 0.25 * 300 + 0.5 * 800
ENGINES = ("a", "b")


def rate_at(second: float) -> float:
    """Of one engine; the height of each day is 6 requests/s."""
    return 3.5 + 2.5 * sin(2 * pi * second / 86_400)


def openmetrics(end: int) -> str:
    """Counters of two engines, one of which started anew in between."""
    series: dict[str, list[str]] = {}
    for engine in ENGINES:
        labels, count = f'model_name="chat",engine="0",instance="{engine}"', 0.0
        for second in range(0, DAYS * 86_400 + 1, STEP_S):
            at = end - DAYS * 86_400 + second
            count = 0.0 if engine == "b" and second == 86_400 else count + rate_at(second) * STEP_S
            found = {
                f'vllm:request_success_total{{{labels},finished_reason="stop"}}': count,
                f"vllm:prefix_cache_queries_total{{{labels}}}": count * MEAN,
                f"vllm:prefix_cache_hits_total{{{labels}}}": count * MEAN * 0.4,
            }
            for name, mean in (("prompt", MEAN), ("generation", MEAN / 2)):
                metric, scale = f"vllm:request_{name}_tokens", mean / MEAN
                for edge, share in zip(EDGES, SHARES, strict=True):
                    found[f'{metric}_bucket{{{labels},le="{edge * scale}"}}'] = count * share
                found[f'{metric}_bucket{{{labels},le="+Inf"}}'] = count
                found |= {f"{metric}_sum{{{labels}}}": count * mean, f"{metric}_count{{{labels}}}": count}
            for name, value in found.items():
                series.setdefault(name, []).append(f"{name} {value} {at}")
    families: dict[str, list[str]] = {}
    for name, lines in series.items():
        family = name.split("{")[0]
        kind = "counter" if family.endswith("_total") else "histogram"
        family = family.removesuffix("_total").removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        families.setdefault(f"# TYPE {family} {kind}", []).extend(lines)
    return "\n".join([*(line for head, lines in families.items() for line in (head, *lines)), "# EOF", ""])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "metrics").write_text(openmetrics(int(time.time()) - 60))
    (folder / "none.yml").write_text("")
    blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "metrics", folder / "data"]
    subprocess.run(blocks, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [
        f"--config.file={folder}/none.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    server = subprocess.Popen(["prometheus", *options], stderr=subprocess.DEVNULL)
    try:
        _until_ready(f"http://{address}/-/ready")
        yield f"http://{address}"
    finally:
        server.kill()
        server.wait()


def _until_ready(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError("Prometheus does not start")


def test_two_days_of_a_fleet_become_a_workload(url: str) -> None:
    data, notes = prometheus.read(Wanted(url, window="2d"))
    work = read_workload(data, Path()).make(1)
    asks, profile = asks_of(work), describe(work)
    assert 40 <= len(data["day"]) <= 48 and max(data["day"]) == pytest.approx(1, abs=0.05)
    assert asks.rate == pytest.approx(2 * 6, rel=0.05) and asks.rate_mean == pytest.approx(2 * 3.5, rel=0.1)
    assert profile.prompt.mean == pytest.approx(MEAN, rel=0.05) and profile.output.mean == pytest.approx(
        MEAN / 2, rel=0.05
    )
    assert profile.prompt.p50 == pytest.approx(500, rel=0.15) and profile.shared_ratio == pytest.approx(0.4, abs=0.03)
    assert "requests of chat in 2d by 1h" in notes[0] and "recorded" not in notes[0]


def test_a_longer_window_says_what_it_knows(url: str) -> None:
    _, notes = prometheus.read(Wanted(url, window="4d"))
    assert "of which 5" in notes[0] or "of which 4" in notes[0]


def test_advice_reads_it_too(url: str) -> None:
    source = read_source(Path(f"prometheus:{url}"), "chat")
    assert source.said is not None and source.workload.stages[0].requests
