"""Holds one engine and sees to it that none of its processes outlives the launcher. A script; standard library only.

    python -I launch_guard.py LOG RUNTIME COMMAND ...

Theory of operation. An engine is several processes, and a launcher may be killed in a way it cannot react to. The guard
puts the engine into a process group of its own and reads its standard input, a pipe from the launcher: when it ends,
for whatever reason, the group is killed. If it ends without a word, the launcher died, and the guard also removes the
directory RUNTIME in its stead. When the engine's first process ends, so does the rest of the group. Processes whose
parent died become children of the guard, and it leaves only after the last of them. Its first line of output is the
engine's process id; its exit status is the engine's, 128 + N after signal N.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Start, report, wait for either end, clean up."""
    log, runtime, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    control(PR_SET_CHILD_SUBREAPER, 1)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 2)  # an engine that cannot be started is explained there too
    engine = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        start_new_session=True,
        preexec_fn=die_with_guard,  # noqa: PLW1509  (no thread exists yet)
    )
    print(engine.pid, flush=True)
    threading.Thread(target=kill_when_orphaned, args=(engine.pid, runtime), daemon=True).start()
    status = engine.wait()
    kill_group(engine.pid)
    bury()
    os._exit(status if status >= 0 else 128 - status)  # at once, though the thread still reads


def control(what: int, value: int) -> None:
    """prctl(2); without effect where there is none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(what, value)


def die_with_guard() -> None:
    """The engine's first process is killed with the guard, should somebody kill the guard."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_when_orphaned(group: int, runtime: str) -> None:
    """Waits for the end of standard input."""
    farewell = sys.stdin.read()
    if not farewell:
        shutil.rmtree(runtime, ignore_errors=True)  # before the group dies, for then this process ends
    kill_group(group)


def kill_group(group: int) -> None:
    """An empty group is no error."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def bury() -> None:
    """Waits for every remaining child."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
