"""Says how each engine of a fleet is started: command line, environment, addresses. Pure: facts in, commands out.

What the user gives by `--engine-arg` wins over every default here, and no option appears twice. Only the port is not
the user's to choose, since every replica needs its own.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.live.launch_connector import LOOPBACK, Side, transfer_config, transfer_variables

ALIASES = {"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-dp": "--data-parallel-size"}
Option = tuple[str, ...]  # an option and its values, as they stand on the command line


class Machine(msgspec.Struct, frozen=True):
    """What there is to run engines on."""

    vllm: str  # path of the executable
    cpu_build: bool  # whether that vLLM computes on CPUs
    cores: int
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them
    environment: dict[str, str] = {}


class Fleet(msgspec.Struct, frozen=True):
    """What the user wants to run."""

    model: str  # path or name
    replicas: int = 1  # that serve whole requests
    engine_args: tuple[str, ...] = ()  # "--max-model-len 4096", "--max-model-len=4096", or option and value one by one
    served_name: str = ""  # empty: as vLLM derives it from `model`
    prefill: int = 0
    decode: int = 0
    connector: str = "nixl"  # between the two

    @property
    def engines(self) -> list[tuple[str, Role]]:
        """Name and role of each engine, in the order of their ports."""
        counts = {Role.BOTH: self.replicas, Role.PREFILL: self.prefill, Role.DECODE: self.decode}
        words = {Role.BOTH: "replica"}
        return [(f"{words.get(role, role)}-{n}", role) for role, count in counts.items() for n in range(count)]

    @property
    def ports(self) -> int:
        """How many it needs: one for the API of each engine, then one for the exchange of KV of each."""
        return len(self.engines) * (2 if self.prefill else 1)


class ReplicaCommand(msgspec.Struct, frozen=True):
    """One engine to be: how it is started and where it will answer."""

    name: str
    arguments: tuple[str, ...]  # the executable first
    environment: dict[str, str]  # on top of the launcher's own
    url: str
    kv_events: str  # ZMQ PUB endpoint that the engine binds; empty when the user turned events off
    kv_replay: str  # ZMQ ROUTER endpoint, likewise
    role: Role = Role.BOTH
    exchange_port: int = 0  # where its side of exchanges answers; 0 = it takes part in none


def replica_commands(fleet: Fleet, machine: Machine, ports: Sequence[int], runtime: str) -> list[ReplicaCommand]:
    """One command for each engine; `ports` are as many as the fleet needs, `runtime` a private directory, its path short.

    raises     ConfigError for too few GPUs, and for an argument that a fleet cannot honour
    """
    user = split_options(fleet.engine_args)
    count = len(fleet.engines)
    problems = [Problem("--engine-arg", what) for what in complaints(user, count)]
    if fleet.prefill and value_of(user, "--kv-transfer-config") is not None:
        problems.append(Problem("--engine-arg", "--kv-transfer-config: --connector makes it; leave it out"))
    devices, lacking = assign_gpus(machine, width(user), count)
    if problems + lacking:
        raise ConfigError(problems + lacking)
    commands = []
    for number, (name, role) in enumerate(fleet.engines):
        events = events_config(user, runtime, name)
        side = Side(0 if role is Role.BOTH else ports[count + number], runtime, mended=machine.cpu_build)
        defaults = [*common_options(ports[number], fleet, events), *exchange_options(fleet, role, side)]
        defaults += cpu_options(machine, user) if machine.cpu_build else []
        own = [option for option in user if name_of(option) != "--kv-events-config"]
        commands.append(
            ReplicaCommand(
                name=name,
                arguments=(machine.vllm, "serve", fleet.model, *merge(defaults, own)),
                environment=variables(machine, fleet, user, runtime, devices[number])
                | (transfer_variables(fleet.connector, side, machine.environment) if side.port else {}),
                url=f"http://{LOOPBACK}:{ports[number]}",
                kv_events=events["endpoint"] if events["enable_kv_cache_events"] else "",
                kv_replay=events["replay_endpoint"] if events["enable_kv_cache_events"] else "",
                role=role,
                exchange_port=side.port,
            )
        )
    return commands


# Options


def split_options(engine_args: Iterable[str]) -> list[Option]:
    """Groups the words by option. JSON values keep their quotes, other values are split as a shell would."""
    options: list[Option] = []
    for text in engine_args:
        option, _, rest = text.partition(" ")
        if not re.match(r"--?[A-Za-z]", text) and options:
            options[-1] += (text,)
        elif "=" in option or not rest.strip():
            options.append((text,))
        else:
            options.append((option, *([rest.strip()] if rest.strip()[0] in "{[" else shlex.split(rest))))
    return options


def name_of(option: Option) -> str:
    """The name by which vLLM knows an option, however it is written: --a_b=1, --no-a-b, --a-b.c, -tp."""
    name = option[0].partition("=")[0].partition(".")[0].replace("_", "-")
    name = ALIASES.get(name, name)
    return "--" + name.removeprefix("--no-") if name.startswith("--no-") else name


def value_of(options: Sequence[Option], name: str) -> str | None:
    """The value of the last option of that name."""
    for option in reversed(options):
        if name_of(option) == name:
            return option[0].partition("=")[2] or (option[1] if len(option) > 1 else "")
    return None


def merge(defaults: Sequence[Option], user: Sequence[Option]) -> list[str]:
    """Defaults that the user did not name, then the user's."""
    named = {name_of(option) for option in user}
    return [word for option in [*(o for o in defaults if name_of(o) not in named), *user] for word in option]


def width(user: Sequence[Option]) -> int:
    """Devices that one replica spans."""
    total = 1
    for name in ALIASES.values():
        value = value_of(user, name) or "1"
        total *= int(value) if value.isdigit() else 1  # the engine will say what is wrong with it
    return total


def complaints(user: Sequence[Option], replicas: int) -> list[str]:
    """Arguments that would make replicas collide."""
    found = []
    if value_of(user, "--port") is not None:
        found.append("--port: every replica gets a free port of its own; leave it out")
    if any(option[0].startswith("--kv-events-config.") for option in user):
        found.append("--kv-events-config: give it whole, as one JSON object")
    try:
        given = json.loads(value_of(user, "--kv-events-config") or "{}")
    except ValueError as error:
        found.append(f"--kv-events-config: not JSON: {error}")
    else:
        if replicas > 1 and given.keys() & {"endpoint", "replay_endpoint"}:
            found.append("--kv-events-config: replicas cannot share an endpoint; leave endpoints out")
    return found


# Defaults


def common_options(port: int, fleet: Fleet, events: Mapping[str, Any]) -> list[Option]:
    """What Pilothouse needs of any engine: address, KV events, hashes it can recompute, counts of cached tokens."""
    return [
        ("--host", LOOPBACK),
        ("--port", str(port)),
        *([("--served-model-name", fleet.served_name)] if fleet.served_name else []),
        ("--kv-events-config", json.dumps(events)),
        ("--prefix-caching-hash-algo", "sha256_cbor"),
        ("--enable-prompt-tokens-details",),
        ("--disable-uvicorn-access-log",),
    ]


def exchange_options(fleet: Fleet, role: Role, side: Side) -> list[Option]:
    """What makes one engine the one half of a pair."""
    if role is Role.BOTH:
        return []
    return [("--kv-transfer-config", json.dumps(transfer_config(fleet.connector, role, side)))]


def cpu_options(machine: Machine, user: Sequence[Option]) -> list[Option]:
    """Two processes instead of three, no compiler, a modest cache: starts in half the time, with 1 GB less memory."""
    options: list[Option] = [("--enforce-eager",), ("--block-size", "64")]
    if width(user) == 1:
        options.append(("--distributed-executor-backend", "uni"))
    if "VLLM_CPU_KVCACHE_SPACE" not in machine.environment:
        options.append(("--kv-cache-memory-bytes", "512M"))
    return options


def events_config(user: Sequence[Option], runtime: str, name: str) -> dict[str, Any]:
    """The engine binds ipc endpoints; a plain tcp one it would connect to, and lose its first events.

    vLLM gives each data-parallel rank an endpoint of its own by adding the rank to the number after the last colon, and
    does so only where the address contains "tcp". The file names are chosen so that this works.
    """
    given: dict[str, Any] = json.loads(value_of(user, "--kv-events-config") or "{}")
    own = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{runtime}/{name}.events.tcp:1",
        "replay_endpoint": f"ipc://{runtime}/{name}.replay.tcp:1",
    }
    return own | given


def variables(
    machine: Machine, fleet: Fleet, user: Sequence[Option], runtime: str, devices: tuple[str, ...]
) -> dict[str, str]:
    """Environment of one engine; what the user has set already stays."""
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if machine.cpu_build:
        wanted |= {"TMPDIR": runtime}  # a killed CPU engine leaves files there
        wanted |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_HOST_IP": LOOPBACK, "GLOO_SOCKET_IFNAME": "lo"}
        wanted |= {"OMP_NUM_THREADS": str(max(1, machine.cores // (len(fleet.engines) * width(user))))}
        if width(user) > 1 or len(fleet.engines) > 1:  # each process would bind itself to the same core
            wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    else:
        wanted |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # so that numbers mean what nvidia-smi means by them
    kept = {name: value for name, value in wanted.items() if name not in machine.environment}
    if devices:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return kept


def assign_gpus(machine: Machine, wide: int, replicas: int) -> tuple[list[tuple[str, ...]], list[Problem]]:
    """Neighbouring devices for each replica, so that the parts of one engine are close to each other."""
    if machine.cpu_build:
        return [()] * replicas, []
    if len(machine.gpus) < wide * replicas:
        what = f"{replicas} x {wide} GPUs are needed and {len(machine.gpus)} are visible"
        return [()] * replicas, [Problem("--replicas", what)]
    return [machine.gpus[start : start + wide] for start in range(0, wide * replicas, wide)], []
