"""Renders chat templates to the same text as the engine's library.

The templates are the model's, the data is the client's: the environment is sandboxed and a template sent by a client
is refused, never compiled. `strftime_now` reads this machine's clock and time zone; where the engine's differ, a
template that prints the date renders differently there.
"""

import copy
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.parser
import jinja2.sandbox
from jinja2 import nodes

from pilothouse.core.errors import ClientError
from pilothouse.live.tokens.content_format import ContentFormat, content_format
from pilothouse.live.tokens.inexact import Inexact

Message = dict[str, Any]
_OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "  # the library's own mark; its length and trailing space decide how it trims
# Parameters of the library's rendering call: taken by it, not seen by the template.
_TAKEN = frozenset({"padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"})
_NOT_OURS = frozenset({"tokenize", "conversation", "messages", "return_assistant_tokens_mask"})


class _Generation(jinja2.ext.Extension):
    """The block tag that marks what an assistant said; its body is rendered as it stands."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self.tags = {"generation"}
        super().__init__(environment)

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class ChatTemplate:
    """The templates of one model, compiled once.

    templates   by name; "default" is used, or "tool_use" for requests with tools where it exists
    special     variables such as bos_token
    """

    def __init__(self, templates: dict[str, str], special: dict[str, str]) -> None:
        self.templates, self.special = templates, special
        self._environment = _environment()
        self._compiled: dict[str, jinja2.Template] = {}
        self._formats: dict[str, ContentFormat] = {}
        self._merges: bool | None = None

    def source(self, with_tools: bool) -> str:
        """The template text for a request."""
        if with_tools and "tool_use" in self.templates:
            return self.templates["tool_use"]
        if "default" not in self.templates:
            raise Inexact("model has no chat template")
        return self.templates["default"]

    def content_format(self, with_tools: bool) -> ContentFormat:
        """What the template for such a request expects as content."""
        source = self.source(with_tools)
        if source not in self._formats:
            try:
                tree = self._environment.parse(source)
            except jinja2.TemplateError:
                raise Inexact("chat template does not compile") from None
            self._formats[source] = content_format(tree)
        return self._formats[source]

    def render(self, messages: list[Message], tools: list[dict[str, Any]] | None, options: dict[str, Any]) -> str:
        """The prompt text. `options` are the engine's merged chat_template_kwargs."""
        if not messages:
            raise Inexact("no messages")
        source = self.source(tools is not None)
        refused = _NOT_OURS & options.keys()
        if refused:
            raise Inexact(f"chat_template_kwargs has {min(refused)}")
        if any(message["role"] == "developer" for message in messages) and not _knows_developer(source):
            messages = _with_one_system(messages)
        options = {name: value for name, value in options.items() if name not in _TAKEN}
        open_end = options.pop("continue_final_message", False)
        final = ""
        if open_end:
            if options.get("add_generation_prompt"):
                raise Inexact("continue_final_message with add_generation_prompt")
            messages, final = _opened(messages, open_end if isinstance(open_end, str) else "content", source)
        variables = {"documents": None, "add_generation_prompt": False, **self.special, **options}
        try:
            text = self._compile(source).render(messages=messages, tools=tools, **variables)
        except Exception as error:  # whatever the template raises, the engine answers it with an error of its own
            raise Inexact("chat template rejects the request") from error
        return _closed(text, final) if open_end else text

    def merges_inline_system(self) -> bool:
        """Whether the engine moves later system messages of /v1/messages to the front: templates that reject them."""
        if self._merges is None:
            sources = [self.source(False), self.source(True)] if self.templates else [""]
            self._merges = any(_rejects_inline_system(source) for source in dict.fromkeys(sources))
        return self._merges

    def _compile(self, source: str) -> jinja2.Template:
        if source not in self._compiled:
            self._compiled[source] = self._environment.from_string(source)
        return self._compiled[source]


def refuse_client_template(body: dict[str, Any]) -> None:
    """Raises ClientError for a request that carries a template: it would run the client's program."""
    options = body.get("chat_template_kwargs")
    if body.get("chat_template") is not None or (
        isinstance(options, dict) and options.get("chat_template") is not None
    ):
        raise ClientError("a chat template sent with the request is refused", param="chat_template")


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON: jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _knows_developer(source: str) -> bool:
    return '"developer"' in source or "'developer'" in source


def _with_one_system(messages: list[Message]) -> list[Message]:
    """Developer messages as system messages, and then all of those as one at the front."""
    renamed = [
        {**{name: value for name, value in message.items() if name != "tools"}, "role": "system"}
        if message["role"] == "developer"
        else message
        for message in messages
    ]
    system = [message for message in renamed if message["role"] == "system"]
    if len(system) == 1 and renamed[0] is system[0]:
        return renamed
    texts = [_joined(message.get("content", "")) for message in system]
    rest = [message for message in renamed if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(text for text in texts if text)}, *rest]


def _joined(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if "text" in part)
    return content or ""


def _opened(messages: list[Message], field: str, source: str) -> tuple[list[Message], str]:
    """The conversation with a mark at the end of its last text, and that text."""
    messages = copy.deepcopy(messages)
    final = messages[-1].get(field)
    if final is None or field not in source:
        raise Inexact("continue_final_message without a field to continue")
    if isinstance(final, list):
        for part in reversed(final):
            if "text" in part:
                text = str(part["text"])
                part["text"] = text + _OPEN_END
                return messages, text
        raise Inexact("continue_final_message without a text to continue")
    messages[-1][field] = final + _OPEN_END
    return messages, final


def _closed(text: str, final: str) -> str:
    """The rendered text up to the mark."""
    mark = _OPEN_END.strip()
    if final.strip() not in text or mark not in text:
        raise Inexact("continue_final_message does not survive the template")
    at = text.rindex(mark)
    return text[:at] if text.startswith(_OPEN_END, at) else text[:at].rstrip()


def _rejects_inline_system(source: str) -> bool:
    if not source:
        return True
    # The engine probes with a bare environment: a template that needs more than loop controls counts as rejecting.
    bare = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    roles = ("system", "user", "system", "user")
    try:
        bare.from_string(source).render(
            messages=[{"role": role, "content": "t"} for role in roles], add_generation_prompt=False
        )
    except jinja2.TemplateError:
        return True
    return False
