# SPDX-License-Identifier: Apache-2.0
"""Configuration trees as YAML text: what is written is read back with the same values and types.

Reading follows the core schema of YAML 1.2: `1e-5` is a number; `yes`, `12:30`, `007` and `2026-01-31`
are text. Writing quotes whatever a reader of YAML 1.1 or 1.2 could take for something else, and uses
ASCII alone, so that a file means the same under every locale.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import yaml

BASE_KEY = "_BASE_"
_EXTENSIONS = ("", ".yml", ".yaml", ".json")
_TUPLE_TAG = "tag:yaml.org,2002:python/tuple"
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")


class ConfigError(ValueError):
    """A configuration that cannot be used: what is wrong, where, and what would be right."""


class _Loader(yaml.SafeLoader):
    """Reads plain values only: no objects, no dates; a key twice in one section is an error."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is not text; quote it", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is set twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _construct_tuple(loader: _Loader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])
_Loader.add_constructor(_TUPLE_TAG, _construct_tuple)


class _Dumper(yaml.SafeDumper):
    """Writes sections as blocks and lists on one line; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


def _represent_tuple(dumper: _Dumper, value: tuple[Any, ...]) -> yaml.Node:
    return dumper.represent_sequence(_TUPLE_TAG, value, flow_style=True)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_multi_representer(dict, _Dumper.represent_dict)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_tuple)


def dump(tree: Mapping[str, Any], **style: Any) -> str:
    """Return a tree of sections and plain values as ASCII YAML, in the style that yaml.dump knows."""
    usual = {"sort_keys": False, "default_flow_style": False, "width": float("inf")}
    return yaml.dump(tree, Dumper=_Dumper, **(usual | style))


def load(text: str, source: str = "") -> Any:
    """Return the value that YAML text holds; `source` names it in errors."""
    source = source or "this text"
    try:
        loader = _Loader(text)
        loader.name = source  # what errors call the place
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not readable as YAML: {error}") from error


def load_file(path: str) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file; an empty file holds an empty one."""
    if os.path.splitext(path)[1] not in _EXTENSIONS:
        raise ConfigError(f"{path} is no YAML file; a configuration ends in .yml, .yaml or .json")
    try:
        with open(path, encoding="utf-8-sig") as file:
            tree = load(file.read(), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; it must hold KEY: VALUE lines")
    return tree


def load_with_bases(path: str, chain: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, tree) of a file and of all that it names under `_BASE_`, the file itself last.

    `_BASE_` is a path or a list of paths, relative to the file that says it; later ones win.

    Raises:
        ConfigError: a file that is its own base, or a base that does not exist.
    """
    here = os.path.realpath(path)
    if here in chain:
        raise ConfigError(f"{BASE_KEY} goes in a circle: {' -> '.join([*chain, here])}")
    tree = load_file(path)
    bases = tree.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{BASE_KEY} = {bases!r} in {path} must be a path or a list of paths")
    for base in bases:
        base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        if not os.path.isfile(base_path):
            raise ConfigError(f"{BASE_KEY} = {base!r} in {path}: there is no file {base_path}")
        yield from load_with_bases(base_path, (*chain, here))
    yield path, tree
