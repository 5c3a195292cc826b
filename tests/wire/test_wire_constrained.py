"""Which bodies bind their answer to a grammar, a schema or tools."""

import pytest

from pilothouse.wire.openai import inspect_json

SCHEMA = b'{"type":"json_schema","json_schema":{"name":"n","schema":{}}}'
TOOLS = b'"tools":[{"type":"function","function":{"name":"f"}}]'


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        (b'"messages":[]', False),
        (b'"response_format":' + SCHEMA, True),
        (b'"response_format":{"type":"json_object"}', True),
        (b'"response_format":{"type":"text"}', False),
        (b'"response_format":null', False),
        (b'"structured_outputs":{"regex":"a+"}', True),
        (b'"structured_outputs":null', False),
        (b'"guided_json":{}', True),
        (b'"guided_choice":["a"]', True),
        (b'"ebnf":"root ::= x"', True),
        (b'"text":{"format":' + SCHEMA + b"}", True),
        (b'"text":{"format":{"type":"text"}}', False),
        (b'"text":"a text to be embedded"', False),
        (TOOLS, True),
        (TOOLS + b',"tool_choice":"auto"', True),
        (TOOLS + b',"tool_choice":"none"', False),
        (TOOLS + b',"tool_choice":{"type":"none"}', False),
        (TOOLS + b',"tool_choice":{"type":"function","function":{"name":"f"}}', True),
        (TOOLS + b',"tool_choice":"none","response_format":{"type":"json_object"}', True),
        (b'"tools":[]', False),
        (b'"tools":null', False),
    ],
)
def test_what_binds_an_answer(fields: bytes, bound: bool) -> None:
    assert inspect_json(b'{"model":"m",' + fields + b"}").constrained is bound
