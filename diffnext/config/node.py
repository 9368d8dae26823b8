# SPDX-License-Identifier: Apache-2.0
"""A tree of options with fixed names and types, on yacs' CfgNode."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import yacs.config

from diffnext.config import yaml_text
from diffnext.config.values import (
    COMMAND_LINE,
    OneOf,
    convert,
    parse_word,
    plain,
    read_section,
    where,
)
from diffnext.config.yaml_text import ConfigError

_PATH = "__path__"
_SEALED = "__sealed__"
_KNOWN = "__known__"
_TYPES = "__types__"


class CfgNode(yacs.config.CfgNode):
    """A section of options, read as attributes or items.

    Defaults are declared by assignment; `seal()` ends the declaration. From then on a name that does
    not exist is an error that says the nearest one, and a value must have the type of the default:
    an int or a numeral serves where a float is wanted, a whole float as 1e4 where an int is, None
    where a text is (as ""), a list for a tuple and back; a bool is never a number, nor is nan. A
    default given as OneOf(default, types) takes values of each of these types.
    Attributes, items, files and the command line obey the same rules, and `str(cfg)` is YAML that
    `merge_from_file` reads back exactly.

    A section made with `new_allowed=True` is free: it takes any names and plain values, and also the
    path of a YAML or JSON file that holds them.
    """

    def __init__(
        self,
        init_dict: Mapping[str, Any] | None = None,
        key_list: Sequence[str] | None = None,
        new_allowed: bool = False,
    ) -> None:
        super().__init__(None, None, new_allowed)
        self.__dict__[_PATH] = ".".join(key_list or ())
        self.__dict__[_SEALED] = False
        self.__dict__[_TYPES] = {}  # of options that take several
        self.__dict__[_KNOWN] = ()  # the full names of all declared options of the tree
        for key, value in (init_dict or {}).items():
            self[key] = value

    # -- reading ------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(self._unknown(name))

    def __missing__(self, key: str) -> Any:
        raise KeyError(self._unknown(key))

    def __str__(self) -> str:
        return self.dump()

    def dump(self, **style: Any) -> str:
        """Return the section as YAML text; `style` is how yaml.dump writes it, as with yacs."""
        return yaml_text.dump(self, **style)

    def names(self) -> list[str]:
        """Full names of this section's options, in order of declaration; a free section is one."""
        found = []
        for key, value in self.items():
            if isinstance(value, CfgNode) and not value.is_new_allowed():
                found.extend(value.names())
            else:
                found.append(self._name(key))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), dict(self), dict(self.__dict__))

    # -- writing ------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __setitem__(self, key: str, value: Any) -> None:
        self._set(key, value, "")

    def __delitem__(self, key: str) -> None:
        self._check_not_frozen(key)
        if not self.is_new_allowed():
            raise ConfigError(f"{self._name(key)} cannot be removed; options have fixed names")
        super().__delitem__(key)

    def __ior__(self, other: Mapping[str, Any]) -> CfgNode:
        self.update(other)
        return self

    # dict's own versions would pass __setitem__ and __delitem__ by
    update = MutableMapping.update
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear
    setdefault = MutableMapping.setdefault

    def seal(self) -> CfgNode:
        """End the declaration: from now on names and types are fixed. Returns the node."""
        self._seal(tuple(self.names()), self.__dict__[self.RENAMED_KEYS])
        return self

    def merge_from_file(self, cfg_filename: str) -> None:
        """Take over the values of a YAML file, after those of the files named by its `_BASE_`."""
        for path, tree in yaml_text.load_with_bases(os.fspath(cfg_filename)):
            self._merge(tree, path)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Take over KEY VALUE pairs, as they stand at the end of a command line.

        Where the option is a text the word is taken as it is, unless the option takes more than
        texts and the word begins like a list or mapping; elsewhere it is read as a Python literal,
        as yacs does, or else as YAML.
        """
        joined = [name for name in cfg_list[0::2] if "=" in name]
        if joined or len(cfg_list) % 2 == 1:
            raise ConfigError(
                f"{(joined or cfg_list)[-1]!r} on the command line has no value; write KEY VALUE pairs, "
                "not KEY=VALUE"
            )
        for name, word in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            tree = word if self._is_text(name, word) else parse_word(word)
            for part in reversed(name.split(".")):
                tree = {part: tree}
            self._merge(tree, COMMAND_LINE)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Take over the values of another tree."""
        self._merge(cfg_other, "")

    @classmethod
    def _load_cfg_from_yaml_str(cls, str_obj: str) -> CfgNode:
        return cls(yaml_text.load(str_obj) or {}, new_allowed=True)

    # -- behind it ----------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        return f"{self.__dict__[_PATH]}.{key}" if self.__dict__[_PATH] else str(key)

    def _seal(self, known: tuple[str, ...], renamed: Mapping[str, Any]) -> None:
        self.__dict__[_SEALED] = True
        self.__dict__[_KNOWN] = known
        self.__dict__[self.RENAMED_KEYS] = renamed
        for value in self.values():
            if isinstance(value, CfgNode):
                value._seal(known, renamed)

    def _check_not_frozen(self, key: str) -> None:
        if self.is_frozen():
            raise AttributeError(
                f"{self._name(key)} cannot be changed: the configuration is frozen"
            )

    def _is_text(self, name: str, word: Any) -> bool:
        """Whether a word for a declared option (not one of a free section) is a text as it stands."""
        node: Any = self
        *sections, key = name.split(".")
        for section in sections:
            node = node.get(section) if isinstance(node, CfgNode) else None
        if not isinstance(node, CfgNode) or node.is_new_allowed():
            return False
        types = node.types_of(key)
        return str in types and (types == (str,) or not str(word).lstrip().startswith(("[", "{")))

    def types_of(self, key: str) -> tuple[type, ...]:
        """What an option of this section may hold."""
        return self.__dict__[_TYPES].get(key, (type(self.get(key)),))

    def _merge(self, tree: Mapping[str, Any], source: str) -> None:
        for key, value in tree.items():
            current = self.get(key)
            if not isinstance(current, CfgNode):
                self._set(key, value, source)
            elif isinstance(value, Mapping):
                current._merge(value, source)
            elif self.is_new_allowed():
                self._set(key, value, source)
            elif value is not None:  # None is a heading with nothing below it
                current._merge(self._section(key, value, source), source)

    def _set(self, key: str, value: Any, source: str) -> None:
        self._check_not_frozen(key)
        if not isinstance(key, str) or key in self.__dict__:
            raise ConfigError(f"{self._name(key)!r} cannot be the name of an option{where(source)}")
        if self.is_new_allowed() or not self.__dict__[_SEALED]:
            value = self._adopt(key, value, source)
        elif key not in self:
            raise ConfigError(self._unknown(key, value, source))
        elif isinstance(self[key], CfgNode):
            value = self._section(key, value, source)
        else:
            value = self._typed(key, value, source)
        super().__setitem__(key, value)

    def _adopt(self, key: str, value: Any, source: str) -> Any:
        """Return a copy of a value of any plain type; a mapping becomes a section of this tree."""
        if isinstance(value, OneOf):
            self.__dict__[_TYPES][key] = value.types
            value = value.default
        if not isinstance(value, Mapping):
            return plain(value, self._name(key), source)
        is_free = isinstance(value, CfgNode) and value.is_new_allowed()
        path = self._name(key).split(".")
        return CfgNode(value, path, new_allowed=is_free or self.is_new_allowed())

    def _section(self, key: str, value: Any, source: str) -> CfgNode:
        """Return what is given for the section `key` as a whole: only a free one can be replaced."""
        if not self[key].is_new_allowed():
            raise ConfigError(
                f"{self._name(key)} = {value!r}{where(source)}: this is a section; set its options, "
                f"{', '.join(self[key])}"
            )
        if isinstance(value, str) and value:
            value = read_section(value, source)
        elif value in (None, ""):
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{self._name(key)} = {value!r} ({type(value).__name__}){where(source)}: wanted is "
                "a mapping of names to values, or the path of a YAML or JSON file that holds one"
            )
        node = CfgNode(None, self._name(key).split("."), new_allowed=True)
        node._merge(value, source)
        return node

    def _typed(self, key: str, value: Any, source: str) -> Any:
        for wanted in self.types_of(key):
            try:
                return plain(convert(value, wanted), self._name(key), source)
            except ConfigError:
                raise
            except (TypeError, ValueError, OverflowError):
                continue  # of another type, if there is one
        names = " or ".join(wanted.__name__ for wanted in self.types_of(key))
        if isinstance(value, float) and value != value:  # nan, which has the type and no value
            names += " other than nan"
        raise ConfigError(
            f"{self._name(key)} = {value!r} ({type(value).__name__}){where(source)}: "
            f"wanted is {names}; it is {self[key]!r} now"
        )

    def _unknown(self, key: str, value: Any = None, source: str = "") -> str:
        """Return what to say about a name that does not exist."""
        name = self._name(key)
        while isinstance(value, Mapping) and len(value) == 1:
            ((key, value),) = value.items()
            name = f"{name}.{key}"
        if self.key_is_renamed(name):
            new, *note = _as_tuple(self.__dict__[self.RENAMED_KEYS][name])
            return f"{name}{where(source)} was renamed to {new}" + "".join(f"; {n}" for n in note)
        nearest = _nearest(name, {*self.__dict__[_KNOWN], *(self._name(key) for key in self)})
        hint = f"; the nearest is {nearest}" if nearest else ""
        return f"there is no option {name}{where(source)}{hint}"


def _restore(cls: type[CfgNode], items: dict[str, Any], state: dict[str, Any]) -> CfgNode:
    """Make a copied or unpickled node; a frozen one too, which cannot be filled by assignment."""
    node = cls.__new__(cls)
    node.__dict__.update(state)
    dict.update(node, items)
    return node


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like `name`; an option of the same name elsewhere comes first."""
    last = name.upper().split(".")[-1]

    def likeness(other: str) -> tuple[bool, float, str]:
        own = other.split(".")[-1]
        compared = other if "." in name else own
        ratio = difflib.SequenceMatcher(None, name.upper(), compared.upper()).ratio()
        words = set(last.split("_")) & set(own.split("_"))  # GRAD_CLIP is CLIP_GRAD
        return own == last, ratio + 0.25 * len(words), other

    return max(known, key=likeness, default="")
