"""A file of sites: what each has otherwise than the base.

east: {replicas: {chat: 6}, images: {engine: "mirror.east/vllm@sha256:..."}, node_labels: {pool: gpu}}
west: {storage_class: local-nvme}
"""

from pathlib import Path

from msgspec.structs import replace

from pilothouse.config.convert import convert
from pilothouse.config.load import read_text, read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests.ground import Site


def read_sites(path: Path) -> list[Site]:
    """Raises ConfigError with every problem found."""
    data = read_yaml(read_text(path), str(path))
    if not isinstance(data, dict) or not data:
        raise ConfigError([Problem(str(path), "is not NAME: {...} for each site")])
    problems: list[Problem] = []
    sites = {str(name): convert(Site, said or {}, str(name), problems) for name, said in data.items()}
    if problems:
        raise ConfigError([Problem(f"{path}: {problem.where}", problem.what) for problem in problems])
    return [replace(site, name=name) for name, site in sites.items() if site is not None]
