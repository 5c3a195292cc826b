"""The data plane against nginx and two Rust routers: requests and stream chunks per second of CPU, and added latency.

python -m benchmarks.dataplane [--quick] [--json] [--rounds N] [--seconds S]

All forward to one canned model server on this machine, over loopback; ../shared/tools/proxy_bench measures. Needs gcc, wrk and
nginx. The routers are used where `.cache/rivals/NAME` is a virtual environment that holds them, for instance made by
`python3.11 -m venv .cache/rivals/vllm-router && .cache/rivals/vllm-router/bin/pip install vllm-router`. Ours is
`pilothouse serve` as users run it: exact tokens and block hashes, the cache-and-load policy, metrics, the request log.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rig.model import tiny_model

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT.parent / "shared" / "tools" / "proxy_bench" / "run.py"
ENGINE_PORT, NGINX_PORT, FIRST_PORT = 9300, 9401, 9410
RIVALS = {"vllm_router": "vllm-router", "sglang_router": "sglang-router"}
BODIES = {"600B": 600, "32KiB": 32_768}  # prompt bytes
ROWS = {  # ours -> column of the tool
    "unary_per_core_s": "unary_per_core_s",
    "chunks_per_core_s": "chunks_per_core_s_low",
    "chunks_per_core_s_busy": "chunks_per_core_s_high",
}
START_S = 30.0


def main() -> int:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: within a minute, and not to be quoted")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each of the three measurements in a round")
    args = parser.parse_args()
    missing = [tool for tool in ("gcc", "wrk", "nginx") if not shutil.which(tool)] + [str(TOOL)] * (not TOOL.exists())
    if missing:
        print(json.dumps({"figures": {}, "targets": {}, "skipped": missing}))
        return 0
    rounds, seconds = (1, 1) if args.quick else (args.rounds, args.seconds)
    results, skipped = measure(rounds, seconds, quiet=args.json)
    figures = figures_of(results)
    if args.json:
        print(json.dumps({"figures": figures, "targets": targets_of(figures), "skipped": skipped}))
    else:
        report(figures, skipped)
    return 0


def measure(rounds: int, seconds: int, *, quiet: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Medians per body size and proxy, and the rivals that are not installed."""
    engine = f"http://127.0.0.1:{ENGINE_PORT}"
    commands, skipped = (
        {"pilothouse": [sys.executable, "-m", "pilothouse.cli", "serve", "-c", "{folder}/ours.yaml"]},
        [],
    )
    for port, (name, program) in enumerate(RIVALS.items(), FIRST_PORT + 1):
        binary = ROOT / ".cache" / "rivals" / program / "bin" / program
        if binary.exists():
            commands[name] = router_command(binary, port, engine)
        else:
            skipped.append(name)
    started: list[subprocess.Popen[bytes]] = []
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "ours.yaml").write_text(json.dumps(configuration(engine)))
            started.append(start([sys.executable, str(TOOL), "upstream"], folder, "engine"))
            wait_for(f"{engine}/v1/models")
            proxies = []
            for port, (name, command) in enumerate(commands.items(), FIRST_PORT):
                started.append(start([part.format(folder=folder) for part in command], folder, name))
                wait_for(f"http://127.0.0.1:{port}/health")
                proxies.append(f"{name}=http://127.0.0.1:{port},{started[-1].pid}")
            for label, size in BODIES.items():
                if not quiet:
                    print(f"{label}: {', '.join(['nginx', *commands])}", file=sys.stderr)
                results[label] = bench(folder, rounds, seconds, size, proxies)
        finally:
            for process in started:
                process.terminate()
                process.wait()
    return results, skipped


def bench(folder: str, rounds: int, seconds: int, size: int, proxies: list[str]) -> dict[str, Any]:
    """One run of the tool; medians by proxy."""
    out = Path(folder) / f"{size}.json"
    sizes = ["--rounds", str(rounds), "--seconds", str(seconds), "--body", str(size), "--json", str(out)]
    ports = ["--nginx-port", str(NGINX_PORT), "--upstream-port", str(ENGINE_PORT)]
    command = [sys.executable, str(TOOL), "bench", *sizes, *ports, *proxies]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)
    medians: dict[str, Any] = json.loads(out.read_text())["median"]
    return medians


def figures_of(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Our figures, and how many times the rivals' they are."""
    figures: dict[str, float] = {}
    for label, proxies in results.items():
        ours = proxies["pilothouse"]
        for row, column in ROWS.items():
            figures[f"{row}_{label}"] = round(ours[column] or 0)
            for rival in ("nginx", *RIVALS):
                if rival in proxies and proxies[rival][column]:
                    figures[f"{row}_{label}_vs_{rival}"] = round((ours[column] or 0) / proxies[rival][column], 3)
        for name in ("pilothouse", "nginx", *RIVALS):
            for point in ("p50", "p99"):
                if name in proxies:
                    figures[f"added_chunk_{point}_ms_{label}_{name}"] = round(
                        proxies[name][f"added_chunk_{point}_ms"], 3
                    )
        figures[f"errors_{label}"] = ours["errors"]
    return figures


def targets_of(figures: dict[str, float]) -> dict[str, list[Any]]:
    """Ahead of both Rust routers on every row, without an error."""
    ahead: dict[str, list[Any]] = {
        name: [">=", 1.0] for name in figures if any(name.endswith(f"_vs_{r}") for r in RIVALS)
    }
    return ahead | {name: ["<=", 0] for name in figures if name.startswith("errors_")}


def configuration(engine: str) -> dict[str, Any]:
    """Ours. The canned server tells nothing of itself, so model and tokenizer are declared."""
    pool = {"endpoints": [{"url": engine}], "models": ["m"], "tokenizer": str(tiny_model())}
    return {"listen": f"127.0.0.1:{FIRST_PORT}", "control": f"127.0.0.1:{FIRST_PORT + 100}", "pools": [pool]}


def router_command(binary: Path, port: int, engine: str) -> list[str]:
    """A Rust router with its cache-aware policy in front of the one engine."""
    where = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(port + 100)]
    launch = ["launch"] if binary.name == "sglang-router" else []
    return [str(binary), *launch, *where, "--worker-urls", engine, "--policy", "cache_aware", "--log-level", "error"]


def start(command: list[str], folder: str, name: str) -> subprocess.Popen[bytes]:
    """A child whose output goes to a file."""
    with (Path(folder) / f"{name}.out").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def wait_for(url: str) -> None:
    """Returns when `url` answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while True:
        try:
            opener.open(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def report(figures: dict[str, float], skipped: list[str]) -> None:
    """For people."""
    for name, value in figures.items():
        print(f"{name:60s} {value:>12,.10g}")
    for name, (_, target) in targets_of(figures).items():
        missed = figures[name] < target if name.startswith(tuple(ROWS)) else figures[name] > target
        if missed:
            print(f"MISSED {name}: {figures[name]} (target {target})")
    if skipped:
        print(f"not installed, left out: {', '.join(skipped)}")


if __name__ == "__main__":
    sys.exit(main())
