"""Reads launch manifests: which engines are started how, in Kubernetes, compose or a file of our own. Pure.

Of our own is a mapping of names to command lines, `a: vllm serve MODEL --block-size 32`, or to `{args, env, image}`.
A name is that of an endpoint, a pool, or an engine's host. A command line is read only as far as engines are compared.
"""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pilothouse.core.errors import ConfigError, Problem

END_OF_COMMAND = ("&&", "||", ";", "|", "&")
SHELLS = ("sh", "bash", "dash", "ash")
MODULES = {"vllm.entrypoints.openai.api_server": "vllm", "sglang.launch_server": "sglang"}


class Launch(msgspec.Struct, frozen=True):
    """One engine as a manifest starts it; `words` come after `vllm serve`."""

    names: tuple[str, ...]
    source: str  # the file
    engine: str  # vllm or sglang
    words: tuple[str, ...]
    environment: dict[str, str] = {}
    image: str = ""


def launches(documents: list[Any], source: str) -> list[Launch]:
    """Every engine that the manifest starts. Raises ConfigError if there is none."""
    found = [launch for document in documents for launch in _document(document, source)]
    if not found:
        raise ConfigError([Problem(source, "starts no engine: no `vllm serve` and no `sglang.launch_server` in it")])
    return found


def _document(document: Any, source: str) -> Iterator[Launch]:
    if isinstance(document, dict) and isinstance(document.get("services"), dict):
        for name, service in document["services"].items():
            if isinstance(service, dict):
                yield from _launch((str(name),), service, ("entrypoint", "command"), "environment", source)
    elif isinstance(document, dict) and "kind" in document:
        yield from _kubernetes(document, (), source)
    else:
        yield from _own(document, source)


def _kubernetes(value: Any, names: tuple[str, ...], source: str) -> Iterator[Launch]:
    """Containers wherever they are: of a Deployment, a StatefulSet, or a kind we have not heard of."""
    if isinstance(value, list):
        for item in value:
            yield from _kubernetes(item, names, source)
    elif isinstance(value, dict):
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and metadata.get("name"):
            names = (*names, str(metadata["name"]))
        for key, inner in value.items():
            if key != "containers":
                yield from _kubernetes(inner, names, source)
        for container in value.get("containers") or []:
            if isinstance(container, dict):
                called = (*names, str(container["name"])) if container.get("name") else names
                yield from _launch(called, container, ("command", "args"), "env", source)


def _own(document: Any, source: str) -> Iterator[Launch]:
    if isinstance(document, dict):
        entries = list(document.items())
    else:
        items = [item for item in document or [] if isinstance(item, dict)] if isinstance(document, list) else []
        entries = [(item.get("engine") or item.get("name") or "", item) for item in items]
    for name, value in entries:
        container = value if isinstance(value, dict) else {"args": value}
        yield from _launch((str(name),), container, ("args",), "env", source, sure=True)


def _launch(
    names: tuple[str, ...],
    container: Mapping[str, Any],
    keys: tuple[str, ...],
    env: str,
    source: str,
    sure: bool = False,
) -> Iterator[Launch]:
    """The engine that a container starts, if it is one. `sure`: it is one, even if only its arguments are there."""
    words = _command([word for key in keys for word in _words(container.get(key), source)])
    image = str(container.get("image") or "")
    engine, start = _engine(words)
    if not engine and sure:
        engine = "vllm"
    elif not engine and words:
        engine = next((known for known in ("vllm", "sglang") if known in image), "")
    if engine and words[start:]:
        yield Launch(names, source, engine, tuple(words[start:]), _environment(container.get(env)), image)


def _words(value: Any, source: str) -> list[str]:
    if isinstance(value, str):
        return _split(value, source)
    return [str(word) for word in value] if isinstance(value, list) else []


def _command(words: list[str]) -> list[str]:
    """Without the shell, if one runs it, and without what comes after the command."""
    for at, word in enumerate(words[:-1]):
        if word in ("-c", "-lc", "-ec") and any(before.rpartition("/")[2] in SHELLS for before in words[:at]):
            words = _split(words[at + 1], words[0])
            break
    start = _engine(words)[1]
    end = next((at for at, word in enumerate(words) if at >= start and word in END_OF_COMMAND), len(words))
    return words[:end]


def _split(line: str, source: str) -> list[str]:
    try:
        return shlex.split(line.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError([Problem(source, f"no command line: {error}: {line[:80]!r}")]) from None


def _engine(words: list[str]) -> tuple[str, int]:
    """Which engine the words start, and where its own arguments begin."""
    for at, word in enumerate(words):
        if word in MODULES:
            return MODULES[word], at + 1
        name, following = word.rpartition("/")[2], words[at + 1 : at + 2]
        if name in ("vllm", "sglang") and following == ["serve"]:
            return name, at + 2
    return "", 0


def _environment(value: Any) -> dict[str, str]:
    """A mapping, a list of NAME=VALUE, or Kubernetes' list of {name, value}; what comes from elsewhere is left out."""
    if isinstance(value, dict):
        return {str(name): str(given) for name, given in value.items() if given is not None}
    found = {}
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict) and "value" in item:
            found[str(item.get("name"))] = str(item["value"])
        elif isinstance(item, str) and "=" in item:
            found[item.partition("=")[0]] = item.partition("=")[2]
    return found
