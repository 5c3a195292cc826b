"""What an engine says of itself in numbers, read one at a time."""

import re
from collections.abc import Iterator
from urllib.request import urlopen

FETCHED = "vllm:external_prefix_cache_hits_total"


def metric(url: str, name: str, **labels: str) -> float:
    """Sum of a metric of an engine over all samples with these labels; 0 if there are none."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        return sum(value for has, value in samples(answer.read().decode(), name) if all(each in has for each in wanted))


def samples(text: str, name: str) -> Iterator[tuple[str, float]]:
    """Labels and value of each line of a metric."""
    for labels, value in re.findall(rf"^{re.escape(name)}({{.*}})? (\S+)$", text, re.MULTILINE):
        yield labels, float(value)


def fetched_tokens(url: str) -> int:
    """Prompt tokens whose KV came from another engine or a store, since this one started."""
    return int(metric(url, FETCHED))
