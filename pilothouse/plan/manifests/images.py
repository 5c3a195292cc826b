"""Container images, pinned by digest. A digest that nobody gave is a placeholder, and stays an error until it is filled."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from pilothouse.core.errors import Problem

UNFILLED = "sha256:FILL-IN"
PINNED = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}")


class Images(Struct, frozen=True):
    """What runs. `docker buildx imagetools inspect NAME:TAG` tells the digest of a tag."""

    engine: str = f"docker.io/vllm/vllm-openai@{UNFILLED}"
    engine_rocm: str = f"docker.io/vllm/vllm-openai-rocm@{UNFILLED}"  # on AMD
    gateway: str = f"pilothouse@{UNFILLED}"  # built by whoever deploys it
    picker: str = f"ghcr.io/llm-d/llm-d-inference-scheduler@{UNFILLED}"
    sidecar: str = f"ghcr.io/llm-d/llm-d-routing-sidecar@{UNFILLED}"

    @classmethod
    def roles(cls) -> list[str]:
        """As `--image` names them."""
        return [name.replace("_", "-") for name in cls.__struct_fields__]

    def of(self, role: str) -> str:
        image: str = getattr(self, role.replace("-", "_"))
        return image


def images_in(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every image named in an object, with its path."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(data, dict):
        items = ((f".{key}", value) for key, value in data.items())
    elif isinstance(data, list):
        items = ((f"[{i}]", value) for i, value in enumerate(data))
    for step, value in items:
        path = f"{where}{step}".lstrip(".")
        if step == ".image" and isinstance(value, str):
            yield path, value
        elif step == ".image" and isinstance(value, dict) and "reference" in value:  # a volume
            yield f"{path}.reference", str(value["reference"])
        else:
            yield from images_in(value, path)


def image_problems(data: Any, where: str) -> list[Problem]:
    """Why an object must not be applied: images that may change under it, or that nobody chose."""
    found = []
    for path, image in images_in(data):
        if UNFILLED in image:
            name = image.partition("@")[0]
            what = f"fill in the digest of {name}: `docker buildx imagetools inspect {name}:TAG` tells it"
            found.append(Problem(f"{where}: {path}", what))
        elif not PINNED.fullmatch(image):
            found.append(Problem(f"{where}: {path}", f"{image} is not pinned: write NAME@sha256:DIGEST"))
    return found
