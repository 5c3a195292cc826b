"""Real engines that hand KV to each other, by each of the connectors that run on a CPU, with the server that some need.

    with Exchange(rig, "nixl", lease_s=5) as exchange:
        prefill = exchange.start(Role.PREFILL, tiny)
        decode = exchange.start(Role.DECODE, tiny, args=["--block-size", "64"])
        ... exchange.pool(Role.DECODE, decode) is the pool of a gateway's configuration ...

A pair is ready in 2 to 3 s once the rig has imported vLLM.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from pilothouse.core.events import Role
from pilothouse.live.launch_connector import LEASE_S, PACKAGES, Side, transfer_config, transfer_variables
from rig.engines import Engine, Rig, free_port, wait_until
from rig.zygote import die_with_parent

STORE = {  # of Mooncake: each engine gives this much memory to the common store
    "metadata_server": "P2PHANDSHAKE",
    "protocol": "tcp",
    "device_name": "",
    "global_segment_size": "64MB",
    "local_buffer_size": "64MB",
}
QUIET = {"LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1"}


def lacking(connector: str) -> str:
    """Why engines cannot use this connector here; empty if they can."""
    module, distribution = PACKAGES.get(connector, ("vllm", "vllm"))
    if importlib.util.find_spec(module):
        return ""
    return f"no {distribution} in this environment; install it with: python engine/install.py"


class Exchange:
    """Engines with one connector; leaving the `with` block ends them, and the server between them."""

    def __init__(self, rig: Rig, connector: str, lease_s: int = LEASE_S) -> None:
        self.rig, self.connector, self.lease_s = rig, connector, lease_s
        self.directory = rig.runtime / f"{connector}-{free_port()}"
        self.engines: list[Engine] = []
        self.server: subprocess.Popen[bytes] | None = None
        self._address = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        self.directory.mkdir()
        if self.connector == "mooncake_store":
            self._start_master()
        elif self.connector == "lmcache":
            self._start_lmcache()
        return self

    def __exit__(self, *exception: object) -> None:
        for engine in self.engines:
            engine.kill()
        if self.server:
            self.server.kill()
            self.server.wait()

    def start(self, role: Role, model: Path, args: Sequence[str] = (), **more: Any) -> Engine:
        """Forks an engine of this role and returns at once, as `Rig.start` does."""
        side = Side(free_port(), str(self.directory), self.lease_s, mended=True, server=self._address)
        transfer = ["--kv-transfer-config", json.dumps(transfer_config(self.connector, role, side))]
        environment = transfer_variables(self.connector, side, {}) | QUIET
        engine = self.rig.start(model, args=[*transfer, *args], env=environment, **more)
        self.engines.append(engine)
        return engine

    def pool(self, role: Role, *engines: Engine) -> dict[str, Any]:
        """These engines as a pool in a gateway's configuration."""
        connector: dict[str, Any] = {"type": self.connector, "lease": f"{self.lease_s}s"}
        if self.connector == "mooncake":
            connector["port"] = bootstrap_port(engines[0])
        endpoints: list[dict[str, Any]] = [
            {"name": f"{role}-{number}", "url": engine.url, "kv_events": engine.kv_endpoint}
            | {"kv_replay": engine.kv_replay_endpoint}
            for number, engine in enumerate(engines)
        ]
        return {"name": str(role), "role": str(role), "connector": connector, "endpoints": endpoints}

    def _start_master(self) -> None:
        """Mooncake's master, which knows who holds what."""
        host, _, port = self._address.rpartition(":")
        control = free_port()
        (self.directory / "mooncake.json").write_text(json.dumps(STORE | {"master_server_address": self._address}))
        options = [f"-rpc_address={host}", f"-rpc_port={port}", f"-metrics_host={host}", f"-metrics_port={control}"]
        self._start(["mooncake_master", *options], f"http://{host}:{control}/metrics/summary")

    def _start_lmcache(self) -> None:
        """LMCache's server, which holds the KV itself."""
        host, _, port = self._address.rpartition(":")
        control = str(free_port())
        options = ["--host", host, "--port", port, "--http-host", host, "--http-port", control]
        options += ["--l1-size-gb", "0.125", "--eviction-policy", "LRU", "--chunk-size", "64"]
        options += ["--supported-transfer-mode", "engine_driven", "--disable-observability"]
        self._start(["lmcache", "server", *options], f"http://{host}:{control}/healthcheck")

    def _start(self, command: list[str], health: str) -> None:
        path = self.rig.log_dir / f"{self.connector}.log"
        with path.open("wb") as log:
            server = self.server = subprocess.Popen(
                [str(Path(sys.executable).with_name(command[0])), *command[1:]],
                cwd=self.directory,
                env={**os.environ, **QUIET, "TMPDIR": str(self.rig.runtime)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  (no other thread holds a lock that prctl could want)
            )
        wait_until(lambda: answers(health) or server.poll() is not None, 60)
        if not answers(health):
            server.kill()
            raise TimeoutError(f"{command[0]} did not start:\n{path.read_text(errors='replace')[-2000:]}")


def bootstrap_port(engine: Engine) -> int:
    """Where Mooncake's bootstrap server of a prefill engine listens."""
    return int(engine.environment["VLLM_MOONCAKE_BOOTSTRAP_PORT"])


def answers(url: str) -> bool:
    """Whether a server says 200 within a second."""
    try:
        with urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
