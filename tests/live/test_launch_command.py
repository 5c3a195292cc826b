"""How engines are started, as tables: options, GPUs, environment."""

import json
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.errors import ConfigError
from pilothouse.live.launch_command import Fleet, Machine, ReplicaCommand, name_of, replica_commands, split_options
from pilothouse.live.launch_connector import LEASE_S, MENDED, MENDED_FOLDER, NAMES, SERVED, connector_problems
from pilothouse.live.launch_machine import check_connector, free_ports, gpu_numbers, visible_gpus

CPU = Machine(vllm="vllm", cpu_build=True, cores=8)
GPUS = Machine(vllm="vllm", cpu_build=False, cores=64, gpus=("0", "1", "2", "3"))


def commands(machine: Machine, *engine_args: str, replicas: int = 1) -> list[ReplicaCommand]:
    fleet = Fleet("m", replicas, engine_args)
    return replica_commands(fleet, machine, list(range(8001, 8001 + replicas)), "/run/p")


def values(command: ReplicaCommand, option: str) -> list[str]:
    """What follows each appearance of the option."""
    words = command.arguments
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word == option]


def refusal(machine: Machine, *engine_args: str, replicas: int = 1) -> str:
    with pytest.raises(ConfigError) as refused:
        commands(machine, *engine_args, replicas=replicas)
    return str(refused.value)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--max-model-len 4096"], [("--max-model-len", "4096")]),
        (["--max-model-len=4096"], [("--max-model-len=4096",)]),
        (["--max-model-len", "4096"], [("--max-model-len", "4096")]),
        (["--enforce-eager", "-tp 2"], [("--enforce-eager",), ("-tp", "2")]),
        (['--speculative-config {"method": "ngram"}'], [("--speculative-config", '{"method": "ngram"}')]),
        (["--lora-modules a=/x 'b=/y z'"], [("--lora-modules", "a=/x", "b=/y z")]),
        (["--seed", "-1"], [("--seed", "-1")]),
    ],
)
def test_engine_args_are_grouped_by_option(given: list[str], options: list[tuple[str, ...]]) -> None:
    assert split_options(given) == options


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("--block-size=64", "--block-size"),
        ("--block_size", "--block-size"),
        ("--no-enforce-eager", "--enforce-eager"),
        ("-tp=2", "--tensor-parallel-size"),
        ("--compilation-config.mode=3", "--compilation-config"),
    ],
)
def test_an_option_has_one_name(written: str, name: str) -> None:
    assert name_of((written,)) == name


def test_every_engine_is_ready_for_steering() -> None:
    first, second = commands(GPUS, replicas=2)
    assert first.arguments[:3] == ("vllm", "serve", "m")
    assert (first.url, second.url) == ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
    assert values(second, "--port") == ["8002"]
    assert values(first, "--host") == ["127.0.0.1"]
    assert values(first, "--prefix-caching-hash-algo") == ["sha256_cbor"]
    events: dict[str, Any] = json.loads(values(first, "--kv-events-config")[0])
    assert events["endpoint"] == first.kv_events != second.kv_events
    assert events["replay_endpoint"] == first.kv_replay
    assert first.kv_events.startswith("ipc:///run/p/")


@pytest.mark.parametrize("given", ["--block-size 32", "--block-size=32", "--block_size 32"])
def test_the_users_value_takes_the_place_of_the_default(given: str) -> None:
    (command,) = commands(CPU, given)
    written = [word for word in command.arguments if word.startswith("--block")]
    assert written == [given.split(maxsplit=1)[0]]


def test_a_switch_turned_off_is_not_also_turned_on() -> None:
    (command,) = commands(CPU, "--no-enforce-eager")
    assert "--enforce-eager" not in command.arguments


def test_kv_events_are_merged_and_may_be_off() -> None:
    (longer,) = commands(CPU, '--kv-events-config {"buffer_steps": 7}')
    config = json.loads(values(longer, "--kv-events-config")[0])
    assert config["buffer_steps"] == 7
    assert config["endpoint"] == longer.kv_events
    (off,) = commands(CPU, '--kv-events-config={"enable_kv_cache_events": false}')
    assert (off.kv_events, off.kv_replay) == ("", "")


def test_cpu_engines_share_the_cores() -> None:
    assert [each.environment["OMP_NUM_THREADS"] for each in commands(CPU, replicas=2)] == ["4", "4"]
    assert commands(CPU, replicas=9)[0].environment["OMP_NUM_THREADS"] == "1"
    assert values(commands(CPU)[0], "--distributed-executor-backend") == ["uni"]
    assert values(commands(CPU, "-tp 2")[0], "--distributed-executor-backend") == []


def test_what_the_user_has_in_the_environment_stays() -> None:
    own = Machine("vllm", True, 8, environment={"OMP_NUM_THREADS": "3", "VLLM_CPU_KVCACHE_SPACE": "2"})
    (command,) = commands(own)
    assert "OMP_NUM_THREADS" not in command.environment
    assert values(command, "--kv-cache-memory-bytes") == []


@pytest.mark.parametrize(
    ("engine_args", "replicas", "devices"),
    [
        ([], 1, ["0"]),
        ([], 4, ["0", "1", "2", "3"]),
        (["--tensor-parallel-size 2"], 2, ["0,1", "2,3"]),
        (["-tp=2", "-pp 2"], 1, ["0,1,2,3"]),
        (["--data_parallel_size=2"], 2, ["0,1", "2,3"]),
    ],
)
def test_gpus_are_dealt_in_slices(engine_args: list[str], replicas: int, devices: list[str]) -> None:
    dealt = [each.environment["CUDA_VISIBLE_DEVICES"] for each in commands(GPUS, *engine_args, replicas=replicas)]
    assert dealt == devices


def test_refusals_say_what_is_wrong() -> None:
    assert "3 x 2 GPUs are needed and 4 are visible" in refusal(GPUS, "-tp 2", replicas=3)
    assert "leave it out" in refusal(CPU, "--port 8000")
    assert "not JSON" in refusal(CPU, "--kv-events-config {oops")
    assert "cannot share" in refusal(CPU, '--kv-events-config {"endpoint": "tcp://*:5557"}', replicas=2)


@pytest.mark.parametrize(
    ("chosen", "gpus"), [("0,2", ("0", "2")), ("GPU-aa, GPU-bb", ("GPU-aa", "GPU-bb")), ("", ()), ("-1", ())]
)
def test_cuda_visible_devices_decides(chosen: str, gpus: tuple[str, ...]) -> None:
    assert visible_gpus(chosen) == gpus


def test_listing_of_gpus_is_read() -> None:
    listed = (
        "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)\n"
    )
    assert gpu_numbers(listed) == ("0", "1")


def test_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def pair(machine: Machine, connector: str = "nixl", *engine_args: str, replicas: int = 0) -> list[ReplicaCommand]:
    fleet = Fleet("m", replicas, engine_args, prefill=1, decode=1, connector=connector)
    return replica_commands(fleet, machine, list(range(8001, 8001 + fleet.ports)), "/run/p")


def transfer(command: ReplicaCommand) -> dict[str, Any]:
    (config,) = values(command, "--kv-transfer-config")
    told: dict[str, Any] = json.loads(config)
    return told


def test_a_pair_has_roles_and_side_channels_of_its_own() -> None:
    prefill, decode = pair(GPUS)
    assert [(each.name, each.role, each.url) for each in (prefill, decode)] == [
        ("prefill-0", "prefill", "http://127.0.0.1:8001"),
        ("decode-0", "decode", "http://127.0.0.1:8002"),
    ]
    assert transfer(prefill) == {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"kv_lease_duration": LEASE_S},
    }
    assert transfer(decode) == transfer(prefill) | {"kv_role": "kv_consumer"}
    assert [each.environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] for each in (prefill, decode)] == ["8003", "8004"]
    assert [each.environment["CUDA_VISIBLE_DEVICES"] for each in (prefill, decode)] == ["0", "1"]
    assert "PYTHONPATH" not in prefill.environment


@pytest.mark.parametrize("connector", ["nixl", "nixl_push", "mooncake", "multi"])
def test_a_cpu_engine_gets_a_connector_that_it_can_use(connector: str) -> None:
    own = Machine("vllm", True, 8, environment={"PYTHONPATH": "/mine", "UCX_NET_DEVICES": "eth0"})
    for command in pair(own, connector):
        config = transfer(command)
        halves = config.get("kv_connector_extra_config", {}).get("connectors", [config])
        assert halves[0]["kv_connector_module_path"] == MENDED
        assert command.environment["PYTHONPATH"] == f"{MENDED_FOLDER}:/mine"
        assert command.environment["UCX_NET_DEVICES"] == "eth0"
        assert command.environment["OMP_NUM_THREADS"] == "4"
    assert Path(MENDED_FOLDER, f"{MENDED}.py").exists()


@pytest.mark.parametrize("connector", [name for name in NAMES if name not in SERVED])
def test_every_connector_can_be_started_beside_plain_replicas(connector: str) -> None:
    replica, prefill, decode = pair(CPU, connector, replicas=1)
    assert values(replica, "--kv-transfer-config") == [] and replica.exchange_port == 0
    names = [transfer(each)["kv_connector"] for each in (prefill, decode)]
    assert names == [NAMES[connector]] * 2
    assert not connector_problems(connector, 1, 3)


def test_pairs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="--connector makes it"):
        pair(CPU, "nixl", "--kv-transfer-config {}")
    for connector, prefill, decode, said in (
        ("nixl", 1, 0, "needs --decode"),
        ("nixl", 0, 2, "needs --prefill"),
        ("nicksl", 1, 1, "known: nixl, nixl_push, files, mooncake, multi"),
        ("lmcache", 1, 1, "needs a server beside the engines"),
        ("mooncake", 2, 1, "bootstrap port of its own"),
    ):
        (problem,) = connector_problems(connector, prefill, decode)
        assert said in problem.what
    assert connector_problems("nixl", 0, 0) == []


def test_a_connector_whose_library_is_not_there_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "nixl").mkdir(parents=True)
    vllm = str(tmp_path / "bin" / "vllm")
    for connector in ("nixl", "nixl_push", "multi", "files"):
        check_connector(vllm, connector)
    with pytest.raises(ConfigError, match="mooncake needs mooncake-transfer-engine in vLLM's environment"):
        check_connector(vllm, "mooncake")
