"""Imports vLLM once and then forks an engine from itself per order: a further replica starts in 1 to 2 s instead of 16.

Theory of operation. Nearly all of an engine's start is importing torch and vLLM. This process does it once, then reads
orders from its standard input, one JSON object a line, and forks. The engine of vLLM itself consists of two processes;
the second one is started with the `spawn` method, which would import everything again, so `fork` is put in its place.

Nobody is left behind. Standard input ends when the process that gave the orders dies, however it dies: then every
engine's process group is killed. Each forked process also asks the kernel to be killed with its parent, should this
process be killed first.

    order    {"log": PATH, "arguments": ["MODEL", "--port", "8001", ...], "environment": {"NAME": "VALUE"}}
    answer   {"pid": 4711}            also its process group; {"ready": true} comes first, after the imports
"""

import ctypes
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Import, say so, then one engine per line until the orders end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not look like an answer
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # second processes of killed engines come here to be buried
    import_engine()
    os.register_at_fork(after_in_child=die_with_parent)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries; nobody waits
    gc.collect()
    gc.freeze()  # collected in a child, these objects would be copied page by page
    print(json.dumps({"ready": True}), file=answers)
    engines: list[int] = []
    try:
        for line in sys.stdin:
            engines.append(fork_engine(json.loads(line)))
            print(json.dumps({"pid": engines[-1]}), file=answers)
    finally:
        for pid in engines:
            kill_group(pid)
        shutil.rmtree(sys.argv[1], ignore_errors=True)


def import_engine() -> None:
    """Everything a CPU engine imports, early or late, and the two changes that make forking work."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread pool would not survive the fork
    import torch
    import vllm.entrypoints.cli.serve
    import vllm.model_executor.models.qwen3
    import vllm.utils.system_utils
    import vllm.v1.attention.backends.cpu_attn
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.coordinator
    import vllm.v1.engine.core
    import vllm.v1.engine.utils
    import vllm.v1.executor.multiproc_executor
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_model_runner
    import vllm.v1.worker.cpu_worker

    torch.set_num_threads(1)
    let_llvmlite_be_inspected()
    fork = multiprocessing.get_context("fork")
    for module in (
        vllm.utils.system_utils,
        vllm.v1.engine.utils,
        vllm.v1.engine.coordinator,
        vllm.v1.executor.multiproc_executor,
    ):
        module.get_mp_context = lambda: fork


def let_llvmlite_be_inspected() -> None:
    """Makes llvmlite's library object deny having special attributes, which it otherwise takes for functions of LLVM.

    While vLLM starts it looks through all loaded modules and stumbles over that object. In an engine started by itself
    llvmlite is loaded later; here it is loaded before, when the connector of LMCache is looked up.
    """
    from llvmlite.binding import ffi

    library = type(ffi.lib)
    answer = library.__getattr__

    def answer_plain(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return answer(self, name)

    library.__getattr__ = answer_plain


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fork_engine(order: dict[str, Any]) -> int:
    """Starts one engine in a process group of its own and returns its process id."""
    pid = os.fork()
    os.setpgid(pid, pid)  # in parent and child, so that the group exists whoever runs first
    if pid:
        return pid
    try:
        become_engine(order)
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 1)
    except BaseException:  # noqa: BLE001  (nothing may unwind into the zygote's own loop)
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)


def become_engine(order: dict[str, Any]) -> NoReturn:
    """What `vllm serve ARGUMENTS` does after its imports."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["environment"])
    sys.path += filter(None, order["environment"].get("PYTHONPATH", "").split(os.pathsep))  # Python read it long ago
    import torch
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = ["vllm", "serve", *order["arguments"]]
    arguments = make_arg_parser(FlexibleArgumentParser(prog="vllm serve")).parse_args(order["arguments"])
    command = ServeSubcommand()
    command.validate(arguments)
    command.cmd(arguments)
    os._exit(0)


def kill_group(pid: int) -> None:
    """Kills an engine with its second process; one that is gone is no error."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main()
