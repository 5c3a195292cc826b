"""Files to be written: YAML by the library, one document per object."""

from typing import TYPE_CHECKING, Any

import yaml
from msgspec import Struct

Object = dict[str, Any]  # of Kubernetes, or any other YAML document


class File(Struct, frozen=True):
    """One file of a target; its path is relative to the folder that holds them all."""

    path: str
    text: str


if TYPE_CHECKING:
    from yaml import SafeDumper as _Base
else:  # libyaml, where it is there: several times as fast
    _Base = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):
    """Repeats what occurs twice, since anchors are hard to read and edit."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Base, text: str) -> yaml.ScalarNode:
    """A text of several lines as such, so that a file inside a file can be read."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def yaml_text(*documents: object) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=len(documents) > 1)


def yaml_file(path: str, *documents: Object) -> File:
    return File(path, yaml_text(*documents))
