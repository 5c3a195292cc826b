"""What the fleet serves, as front doors need it: names, and how each model's prompts become tokens and block keys."""

import msgspec


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
