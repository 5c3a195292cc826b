"""Commands that show something: configuration, plugins, status, a request's story, a journal's replay."""

import inspect
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec
import typer
import yaml
from rich.console import Console
from rich.table import Table

from pilothouse import build
from pilothouse.cli.running import prepare, read_config
from pilothouse.config import disaggregation
from pilothouse.config import explain as explaining
from pilothouse.config.policy import manual
from pilothouse.config.policy import profile as make_profile
from pilothouse.core.commands import Reject, Route, Scored, Why
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.core.policy import Registry, deciders, filters, pickers, queues, scorers
from pilothouse.journal.replay import routes, verify
from pilothouse.plugins import load_plugins
from pilothouse.policies.profiles import DEFAULT, PROFILES

console = Console()
if not console.is_terminal:  # in a file or a pipe nobody folds tables at 80 columns
    console.width = 160
ASK_TIMEOUT_S = 5


def config_check(path: Path) -> None:
    config = prepare(read_config(path), str(path))
    make_profile(config.policy)
    engines = sum(len(pool.endpoints) for pool in config.pools)
    typer.echo(f"{path}: good. {len(config.pools)} pools, {engines} fixed endpoints, {config.workers} workers")
    for remark in disaggregation.remarks(config):
        typer.echo(f"{path}: {remark}")


def config_explain(path: Path | None) -> None:
    text = read_config(path) if path else "pools: [{endpoints: [{url: 'http://127.0.0.1:8000'}]}]"
    config = prepare(text, str(path or "defaults"))
    table = _table("field", "value", "unit", "default", "origin", "meaning")
    for line in explaining.explain(config, yaml.safe_load(text) if path else {}):
        style = "bold" if line.origin == "file" else ""
        table.add_row(line.where, line.value, line.unit, line.default, line.origin, line.meaning, style=style)
    console.print(table)


def plugins(kind: str) -> None:
    load_plugins()
    registries: dict[str, Registry[Any]] = {
        registry.kind: registry for registry in (filters, scorers, pickers, queues, deciders)
    }
    if kind and kind not in registries:
        raise ConfigError([Problem("plugins", f"unknown kind {kind!r}, known: {', '.join(registries)}")])
    for name, registry in registries.items():
        if kind in ("", name):
            _manual(name, registry)
    if not kind:
        console.print("[bold underline]policies[/]\n")
        for policy in PROFILES.values():
            parts = " + ".join(f"{s.weight:g} x {s.name}" for s in policy.scorers) or "no scorer"
            mark = " (default)" if policy.name == DEFAULT else ""
            console.print(f"[bold]{policy.name}[/]{mark}: {parts}, picker {type(policy.picker).__name__}")


def _manual(kind: str, registry: Registry[Any]) -> None:
    console.print(f"[bold underline]{kind}s[/]\n")
    for name, page, parameters in manual(registry):
        console.print(f"[bold]{name}[/]")
        console.print(inspect.cleandoc(page), markup=False, highlight=False)
        for parameter, default in parameters:
            console.print(f"    {parameter} = {default}", markup=False)
        console.print()


def status(control: str, as_json: bool) -> None:
    data = ask_gateway(control, "/status")
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    console.print(f"pilothouse {data['version']}, policy {data['policy']}, {'ready' if data['ready'] else 'NOT READY'}")
    table = _table(
        "endpoint", "role", "state", "KV", "in flight", "prefill tokens", "others", "KV used", "speculation",
        "report age", "models",
    )  # fmt: skip
    for e in data["endpoints"]:
        used, age = e["kv_used_ratio"], e["report_age_s"]
        table.add_row(
            e["endpoint"], e["role"], e["state"], e["kv"], str(e["in_flight"]), str(e["prefill_tokens"]), str(e["others"]),
            "-" if used is None else f"{used:.0%}", _speculation(e), "-" if age is None else f"{age:.1f} s",
            ", ".join(e["models"]),
        )  # fmt: skip
    console.print(table)
    for model in data["models"]:
        console.print(f"model {model['model']}: prompts described by {model['mode']}")
    for sentence in data["degraded"]:
        console.print(f"[yellow]! {sentence}[/]")


def _speculation(endpoint: dict[str, Any]) -> str:
    accepted = endpoint["acceptance"]
    return (endpoint["speculation"] or "-") + ("" if accepted is None else f", {accepted:.0%} accepted")


def explain(request_id: str, control: str, journal: Path | None, as_json: bool) -> None:
    if journal is None:
        story = ask_gateway(control, f"/explain/{request_id}")
        decisions = [(at_us, route) for at_us, route in zip(story["routed_us"], story["routes"], strict=True)]
        decided = [(at_us, msgspec.convert(route, Route)) for at_us, route in decisions]
    else:
        story, decided = {}, [(None, route) for route in _decided(journal, request_id)]
        if not decided:
            raise PilothouseError(f"{journal} holds no decision about {request_id}")
    if as_json:
        typer.echo(json.dumps(story or [msgspec.to_builtins(route) for _, route in decided], indent=1))
        return
    if story:
        _story(story)
    for at_us, route in decided:
        _decision(route, at_us)


def _decided(journal: Path, request_id: str) -> Iterator[Route]:
    """Decides the whole journal anew, listing every candidate however large the fleet."""
    for route in routes(journal, build.explaining_dispatcher):
        if route.request == request_id or route.request.rpartition("~")[0] == request_id:
            yield route


def _story(story: dict[str, Any]) -> None:
    first, cached, prefilled = story["first_token_us"], story["cached_tokens"], story["prefilled_us"]
    parts = [f"{story['outcome'] or 'in flight'}", f"model {story['model']}", f"{story['prompt_tokens']} prompt tokens"]
    if prefilled is not None:
        parts.append(f"prompt computed elsewhere after {prefilled / 1000:.1f} ms")
    if first is not None:
        moved = "" if prefilled is None else f", {(first - prefilled) / 1000:.1f} ms after its prefill"
        parts.append(f"first token after {first / 1000:.1f} ms{moved}")
    if cached is not None:
        parts.append(f"{cached} tokens served from cache")
    if story["rejected"]:
        parts.append(f"rejected: {msgspec.convert(story['rejected'], Reject).reason}")
    console.print(f"[bold]{story['request']}[/]: " + ", ".join(parts))


def _decision(route: Route, at_us: int | None) -> None:
    why = route.why
    after = f", {at_us / 1000:.2f} ms after arrival" if at_us is not None else ""
    console.print(
        f"attempt {route.attempt}: [bold]{route.endpoint}[/] by policy {why.profile}{after}, "
        f"{route.cached_tokens} tokens expected from its cache; {why.considered} candidates"
        + "".join(f", {count} left out by {name}" for name, count in why.left_out.items())
        + (f"; {why.note}" if why.note else "")
        + (f"; {why.reuse.told(route.endpoint)}" if why.reuse is not None else "")
    )
    if why.split is not None:
        console.print(f"  {'split' if why.split.split else 'whole'} by decider {why.split.decider}: {why.split.reason}")
    if route.prefill is not None:
        console.print(
            f"  prompt computed by [bold]{route.prefill.endpoint}[/], KV handed over by {route.prefill.connector}"
        )
        _candidates(route.prefill.why, route.prefill.endpoint)
    _candidates(why, route.endpoint)


def _candidates(why: Why, chosen: str) -> None:
    table = _table(
        "candidate", "total", *why.scorers, _cached_heading(why.candidates), "queued prefill", "in flight", "engine runs",
        "engine waits", "KV used", "report age",
    )  # fmt: skip
    for c in why.candidates:
        table.add_row(
            c.endpoint, f"{c.total:.4f}", *(f"{score:.4f}" for score in c.scores), _cached(c),
            str(c.prefill_tokens), str(c.in_flight), _or_dash(c.reported_running), _or_dash(c.reported_waiting),
            "-" if c.kv_used_ratio is None else f"{c.kv_used_ratio:.0%}",
            "-" if c.report_age_us is None else f"{c.report_age_us / 1e6:.2f} s",
            style="bold" if c.endpoint == chosen else "",
        )  # fmt: skip
    console.print(table)


def replay(journal: Path, wants_verify: bool) -> None:
    if not wants_verify:
        raise ConfigError([Problem("replay", "say what to do with the journal: --verify, or --what-if FILE")])
    result = verify(journal, build.replayed_dispatcher)
    typer.echo(
        f"{result.segments} segments, {result.events} events, {result.commands} commands, {result.differences} differences"
    )
    if result.first is not None:
        typer.echo(f"first difference: {result.first.segment}, entry {result.first.number}")
        typer.echo(
            f"  event    {result.first.event}\n  recorded {result.first.recorded}\n  replayed {result.first.replayed}"
        )
    if result.differences:
        raise typer.Exit(1)


def ask_gateway(control: str, path: str) -> Any:
    """GET from a running gateway's control address."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{control}{path}", timeout=ASK_TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise PilothouseError(f"{control}{path}: {_refusal(error)}") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)  # of urllib's own wrapper
        why = (reason.strerror or reason) if isinstance(reason, OSError) else reason
        raise PilothouseError(f"no gateway answers at {control} ({why}); is one running, is --control right?") from None


def _refusal(error: urllib.error.HTTPError) -> object:
    """A gateway says why in JSON; what else listens there may say anything."""
    try:
        return json.load(error).get("error", error.reason)
    except (OSError, ValueError, AttributeError):
        return f"{error.code} {error.reason}"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cached_heading(candidates: list[Scored]) -> str:
    return "cached (HBM+DRAM+disk+remote)" if any(c.lower_tokens for c in candidates) else "cached"


def _cached(c: Scored) -> str:
    """Tokens, and where they lie if not all are in HBM."""
    if not c.lower_tokens:
        return str(c.cached_tokens)
    parts = [c.cached_tokens - sum(c.lower_tokens), *c.lower_tokens]
    return f"{c.cached_tokens} ({'+'.join(map(str, parts))})"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
