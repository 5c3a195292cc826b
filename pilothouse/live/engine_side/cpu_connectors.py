"""vLLM's own KV connectors, mended for engines that compute on CPUs. Imported by the engine, not by Pilothouse.

    {"kv_connector": "NixlConnector", "kv_connector_module_path": "cpu_connectors", ...}     with this folder in PYTHONPATH

vLLM looks the connector's class up by name in that module. It is vLLM's class, found under vLLM's name, as vLLM asks
for that name in other places too; only what it stands on was changed before:

- NIXL's progress thread spins: one core for each engine, idle or not. Here it sleeps between two looks.
- vLLM's side of NIXL binds whoever starts it to the machine's last core, and that is the thread that computes: of all engines,
  which then wait for each other. Here it may run where it could before.
- Mooncake asks for the number of the accelerator, and there is none; and its bootstrap server listens on all addresses.
"""

import os
from importlib import import_module
from typing import Any

CONNECTORS = "vllm.distributed.kv_transfer.kv_connector.v1"
PAUSE_US = 5_000  # a transfer waits for half of it on average; an idle engine takes 2 % of a core in place of 100


def __getattr__(name: str) -> Any:
    """The connector's class, after the change that it needs."""
    if name in ("NixlConnector", "NixlPullConnector", "NixlPushConnector"):
        calm_nixl()
        unbind_nixl()
        return getattr(import_module(f"{CONNECTORS}.nixl"), name)
    if name == "MooncakeConnector":
        module = import_module(f"{CONNECTORS}.mooncake.mooncake_connector")
        mend_mooncake(module)
        return getattr(module, name)
    raise AttributeError(f"no connector {name} here")


def calm_nixl() -> None:
    """Puts a pause into the configuration of every agent; NIXL's Python side sets it to 0 and offers no choice."""
    bindings = import_module("nixl._api").nixlBind
    agent = bindings.nixlAgent
    if agent.__name__ == "calm_agent":
        return

    def calm_agent(name: str, config: Any) -> Any:
        config.pthrDelay = PAUSE_US
        return agent(name, config)

    bindings.nixlAgent = calm_agent


def unbind_nixl() -> None:
    worker = import_module(f"{CONNECTORS}.nixl.base_worker").NixlBaseConnectorWorker
    start = worker.__init__
    if start.__name__ == "start_unbound":
        return

    def start_unbound(self: Any, *given: Any, **named: Any) -> None:
        cores = os.sched_getaffinity(0)
        try:
            start(self, *given, **named)
        finally:
            os.sched_setaffinity(0, cores)

    worker.__init__ = start_unbound


def mend_mooncake(module: Any) -> None:
    """The CPU is device 0, and whoever may ask for the engine's address comes from where the engine listens."""
    import_module("torch").accelerator.current_device_index = lambda: 0
    server = module.MooncakeBootstrapServer
    module.MooncakeBootstrapServer = lambda host, port: server(os.environ.get("VLLM_HOST_IP", host), port)
