"""Tables for what templates see and print, and for what is refused."""

from pathlib import Path
from typing import Any

import pytest
from token_variants import VARIANTS, write_model

from pilothouse.core.errors import ClientError, ConfigError
from pilothouse.live.tokens.inexact import Inexact
from pilothouse.live.tokens.messages import conversation, tool_definitions
from pilothouse.live.tokens.model_files import find_model_files
from pilothouse.live.tokens.requests import Chat, EngineSettings, read_request
from pilothouse.live.tokens.template import ChatTemplate, refuse_client_template

MACRO = "{% macro show(x) %}{% for p in x %}{% endfor %}{% endmacro %}"
USER = {"role": "user", "content": "hi"}


def rendered(source: str, messages: list[dict[str, Any]] | None = None, tools: Any = None, **options: Any) -> str:
    return ChatTemplate({"default": source}, {"bos_token": "<s>"}).render(messages or [USER], tools, options)


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", {}, "<s>hi"),
        ("{{ bos_token }}", {"bos_token": "<t>"}, "<t>"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", {}, '{"b": "<é>", "a": 1}'),
        ("{{ [1] | tojson(indent=2) }}", {}, "[\n  1\n]"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", {}, "1"),
        ("{% generation %}a{{ messages[0].role }}{% endgeneration %}b", {}, "auserb"),
        ("  {% if true %}\nline\n  {% endif %}\nend", {}, "line\nend"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", {}, "TrueTrueFalse"),
        ("{{ max_length is defined }}{{ other }}", {"max_length": 5, "other": 7}, "False7"),
        ("{{ strftime_now('%Y') | length }}", {}, "4"),
        ("{{ messages[0].content }}</s>", {"continue_final_message": True}, "hi"),
        ("{{ messages[0]['content'] | trim }}</s>", {"continue_final_message": True}, "hi"),
    ],
)
def test_prints_like_the_library(source: str, options: dict[str, Any], expected: str) -> None:
    assert rendered(source, **options) == expected


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("{{ raise_exception('no') }}", {}),
        ("{{ messages.append(1) }}", {}),
        ("{{ ''.__class__.__mro__ }}", {}),
        ("{{ messages[0].content }}", {"tokenize": True}),
        ("{{ messages[0].content }}", {"continue_final_message": True, "add_generation_prompt": True}),
        ("nothing", {"continue_final_message": True}),
        ("content", {"continue_final_message": True}),
    ],
)
def test_what_the_engine_refuses_is_inexact(source: str, options: dict[str, Any]) -> None:
    with pytest.raises(Inexact):
        rendered(source, **options)


@pytest.mark.parametrize(
    "body",
    [
        {"chat_template": "{{ 1 }}", "messages": [USER]},
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}, "messages": [USER]},
    ],
)
def test_a_clients_template_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as refused:
        refuse_client_template(body)
    assert (refused.value.status, refused.value.param) == (400, "chat_template")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "string"),
        ("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}", "openai"),
        ("{% for m in messages[1:] %}{% for p in m.content | list %}{% endfor %}{% endfor %}", "openai"),
        ("{% set all = messages %}{% for m in all %}{% for p in m.content %}{% endfor %}{% endfor %}", "openai"),
        (
            "{% for m in messages %}{% set content = m.content %}{% for p in content %}{% endfor %}{% endfor %}",
            "openai",
        ),
        ("{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}", "string"),
        (
            MACRO + "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
            "openai",
        ),
        (
            MACRO + "{% for m in messages %}{{ show(x=m['content']) }}{% endfor %}",
            "openai",
        ),
        ("{% macro show(content) %}{% for p in content %}{% endfor %}{% endmacro %}", "string"),
        (
            "{% set a, b = messages, 1 %}{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "openai",
        ),
        ("{% set ns = namespace(m=1) %}{% set ns.m = messages %}{% for content in content %}{% endfor %}", "string"),
    ],
)
def test_content_format_is_read_from_the_template(source: str, expected: str) -> None:
    assert ChatTemplate({"default": source}, {}).content_format(False) == expected


def test_parts_become_lines_or_stay_parts() -> None:
    parts = [{"text": "a", "type": "text", "extra": 1, "name": "dropped"}, {"type": "text", "text": ""}]
    message = {"role": "user", "content": [*parts, {"type": "refusal", "refusal": "b"}]}
    assert conversation([message], "string") == [{"role": "user", "content": "a\nb"}]
    assert conversation([message], "openai")[0]["content"] == [
        {"type": "text", "text": "a", "extra": 1},
        {"type": "text", "text": ""},
        {"type": "text", "text": "b"},
    ]


def test_tool_calls_have_objects_for_arguments_and_a_fixed_order() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}, "id": "1", "index": 0}
    (message,) = conversation([{"role": "assistant", "content": None, "tool_calls": [call]}], "string")
    assert message["content"] == ""
    assert list(message["tool_calls"][0]) == ["id", "function", "type", "index"]
    assert list(message["tool_calls"][0]["function"].items()) == [("arguments", {"a": 1}), ("name", "f")]
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}  # the body is the client's and stays as it is


def test_tools_are_printed_in_one_way() -> None:
    tools = [{"function": {"parameters": {"z": 1}, "name": "f", "junk": 1}, "type": "function"}]
    assert tool_definitions(tools) == [
        {"type": "function", "function": {"name": "f", "description": None, "parameters": {"z": 1}}}
    ]


def test_developers_become_one_system_message_where_the_template_knows_none() -> None:
    messages = conversation(
        [{"role": "developer", "content": "a"}, USER, {"role": "developer", "content": "b"}], "string"
    )
    shown = "{% for m in messages %}[{{ m.role }} {{ m.content }}]{% endfor %}"
    assert rendered(shown, messages) == "[system a\n\nb][user hi]"
    assert rendered(shown + "{# 'developer' #}", messages) == "[developer a][user hi][developer b]"


def test_named_template_for_tools() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})
    assert (template.render([USER], None, {}), template.render([USER], [], {})) == ("plain", "tools")


@pytest.mark.parametrize(
    ("source", "merges"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        (
            (
                "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
                "{{ raise_exception('x') }}{% endif %}{% endfor %}"
            ),
            True,
        ),
        ("{% generation %}{% endgeneration %}", True),
    ],
)
def test_templates_that_reject_later_system_messages(source: str, merges: bool) -> None:
    assert ChatTemplate({"default": source}, {}).merges_inline_system() == merges


@pytest.mark.parametrize(
    ("route", "body", "reason"),
    [
        ("/v1/responses", {"input": "x", "previous_response_id": "r"}, "previous_response_id"),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "1"}]}, "input item type"),
        ("/v1/responses", {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "encrypted"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "not text"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
        ("/v1/chat/completions", {"messages": [USER], "truncate_prompt_tokens": 5}, "truncation"),
        ("/v1/chat/completions", {"messages": [USER], "tools": []}, "tools"),
        ("/v1/chat/completions", {"messages": [USER], "kv_transfer_params": {"prompt_token_ids": [1]}}, "token ids"),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, "not text alone"),
        ("/v1/completions", {"prompt": [[1, -1]]}, "out of range"),
        ("/v1/completions", {}, "neither text nor ids"),
    ],
)
def test_what_cannot_be_known_is_said(route: str, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(Inexact, match=reason):
        read_request(route, body, ChatTemplate({"default": "{{ messages }}"}, {}), EngineSettings())


def test_options_are_merged_as_the_engine_does() -> None:
    body = {
        "messages": [USER],
        "chat_template_kwargs": {"style": "auto", "depth": None, "extra": 1, "add_generation_prompt": False},
        "reasoning_effort": "none",
    }
    settings = EngineSettings(template_defaults={"style": "house", "depth": 3})
    prompt = read_request("/v1/chat/completions", body, ChatTemplate({"default": "x"}, {}), settings).prompt
    assert isinstance(prompt, Chat)
    assert prompt.options == {
        "style": "house",
        "depth": 3,
        "extra": 1,
        "enable_thinking": False,
        "reasoning_effort": "none",
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def test_files_are_found_and_templates_take_precedence(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "chat_template": "in the configuration", "image_token": "<img>"}
    folder = write_model(tmp_path / "model", VARIANTS["qwen"](), None, **config)
    files = find_model_files(folder / "tokenizer.json")
    assert files.templates == {"default": "in the configuration"}
    assert files.special_tokens == {"bos_token": "<s>", "image_token": "<img>"}
    (folder / "chat_template.jinja").write_text("in a file")
    (folder / "chat_templates").mkdir()
    (folder / "chat_templates" / "tool_use.jinja").write_text("for tools")
    assert find_model_files(folder).templates == {"default": "in a file", "tool_use": "for tools"}


@pytest.mark.parametrize("name", ["no such folder", "nobody/no-such-model"])
def test_missing_files_are_named_with_a_remedy(name: str) -> None:
    with pytest.raises(ConfigError, match=r"(give|point to) (a|the) folder"):
        find_model_files(name)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        find_model_files(tmp_path)
