"""What the fleet serves, as front doors need it: names, and how each model's prompts become tokens and block keys."""

import msgspec

from pilothouse.live.tokens.dialect import Dialect, Own

BLOCK_TOKENS = 64  # where the engine does not tell its block size
ALGORITHMS = ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor")


class ServedModel(msgspec.Struct, frozen=True):
    """One name that clients may ask for, and how its prompts are described."""

    name: str
    pool: str
    root: str | None = None  # the engine's model path or hub name
    parent: str | None = None  # for an adapter: the model it adapts
    max_model_len: int | None = None  # tokens
    tokenizer: str | None = None  # directory or hub name; None = ask the engine
    block_size: int = 0  # tokens; 0 = unknown
    hash_algorithm: str = ""  # "" = unknown
    hash_seed: str | None = None
    urls: tuple[str, ...] = ()  # engines that serve it


def merged(listings: list[list[ServedModel]]) -> dict[str, ServedModel]:
    """One entry per name over all engines; the first that lists a name describes it, all of them are its `urls`."""
    found: dict[str, ServedModel] = {}
    for listing in listings:
        for model in listing:
            first = found.get(model.name)
            urls = (first.urls if first else ()) + model.urls
            found[model.name] = msgspec.structs.replace(first or model, urls=urls)
    return dict(sorted(found.items()))


def dialect_of(model: ServedModel) -> Dialect:
    """How the gateway names the model's KV blocks: as its engines do, or by names of our own where that is impossible."""
    size = model.block_size or BLOCK_TOKENS
    if model.hash_algorithm in ALGORITHMS:
        stated = {"algorithm": model.hash_algorithm, "block_size": size, "seed": model.hash_seed}
        dialect = msgspec.convert(stated, Dialect)
        if dialect.reproducible:
            return dialect
    return Own(block_size=size)
