"""Tells whether a chat template reads message content as one string or as a list of parts.

The engine decides this from the template's syntax tree: a template that loops over the content of a message gets the
list ("openai"), any other gets the texts joined by newlines ("string"). The same findings are made here, including
its answer "string" for templates whose assignments or loops have a form it does not follow.
"""

from typing import Literal

from jinja2 import nodes

ContentFormat = Literal["string", "openai"]


class _NotFollowed(Exception):
    """The template binds messages or content to something other than a plain name."""


def content_format(tree: nodes.Template) -> ContentFormat:
    """The format of the content that this template expects."""
    try:
        return "openai" if _loops_over_content(tree) else "string"
    except _NotFollowed:
        return "string"


def _loops_over_content(tree: nodes.Template) -> bool:
    messages = _message_names(tree)
    inside, fed = _macro_loops(tree, messages)
    for loop in tree.find_all(nodes.For):
        iterated = loop.iter
        direct = any(_reads(iterated, name, "content") for name in messages)
        named = isinstance(iterated, nodes.Name) and (
            iterated.name in fed.get(id(loop), set()) or (id(loop) not in inside and iterated.name == "content")
        )
        if direct or named:
            _name_of(loop.target)
            return True
    return False


def _message_names(tree: nodes.Template) -> list[str]:
    """The loop variables that hold one message."""
    lists, position = ["messages"], 0
    while position < len(lists):
        for assignment in tree.find_all(nodes.Assign):
            if _reads(assignment.node, lists[position]):
                name = _name_of(assignment.target)
                if name not in lists:
                    lists.append(name)
        position += 1
    return [_name_of(loop.target) for loop in tree.find_all(nodes.For) if any(_reads(loop.iter, n) for n in lists)]


def _macro_loops(tree: nodes.Template, messages: list[str]) -> tuple[set[int], dict[int, set[str]]]:
    """The loops inside macros, and for each the macro parameters that are given the content of a message."""
    inside: set[int] = set()
    fed: dict[int, set[str]] = {}
    calls = [call for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)]
    for macro in tree.find_all(nodes.Macro):
        parameters = [argument.name for argument in macro.args]
        given: set[str] = set()
        for call in calls:
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                pairs = [*zip(parameters, call.args, strict=False)]
                pairs += [(pair.key, pair.value) for pair in call.kwargs if pair.key in parameters]
                given |= {name for name, value in pairs if any(_reads(value, each, "content") for each in messages)}
        for loop in macro.find_all(nodes.For):
            inside.add(id(loop))
            if given:
                fed[id(loop)] = given
    return inside, fed


def _reads(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether an expression is the variable, or its `key`; filters, tests and slices around it do not matter."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == key and _is_variable(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _is_variable(node.node, name)


def _is_variable(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _name_of(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _NotFollowed
    return target.name
