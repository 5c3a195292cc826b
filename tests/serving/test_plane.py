"""Ids of requests."""

import pytest

from pilothouse.core.errors import ClientError
from pilothouse.serving.plane import RequestIds
from pilothouse.wire.openai import MODEL_CHARS_MAX, inspect_json


def test_an_id_that_a_client_sends_again_and_again_is_never_used_twice() -> None:
    ids, others = RequestIds(), RequestIds()
    unique = [ids.of(b"dup")[1] for _ in range(70_000)] + [others.of(b"dup")[1] for _ in range(1_000)]
    assert len(set(unique)) == len(unique)
    assert all(name.rpartition("~")[0] == "dup" for name in unique[:100])


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", b"a\r\nb", "ä".encode()])
def test_harmful_ids_are_replaced(given: bytes | None) -> None:
    ids = RequestIds()
    made = [ids.of(given) for _ in range(600)]
    assert len(set(made)) == 600 and all(shown == unique and len(shown) == 32 for shown, unique in made)


def test_a_model_s_name_is_short() -> None:
    assert inspect_json(b'{"model":"%s"}' % (b"m" * MODEL_CHARS_MAX)).model is not None
    with pytest.raises(ClientError, match="model must be a string"):
        inspect_json(b'{"model":"%s"}' % (b"m" * (MODEL_CHARS_MAX + 1)))
