# SPDX-License-Identifier: Apache-2.0
"""Names for classes and functions, so that a configuration can choose one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Registry:
    """Maps a name to an object; finds the objects by importing a package on the first miss.

    A new class is one new file in `package`: no list of imports has to be edited. A class outside the
    package is reached by "module.path:Name" in place of a registered name.

    Args:
        kind: what is registered, for messages: a word, or the option that chooses ("METHOD.TYPE").
        package: the package whose modules register themselves when they are imported.
        modules: how the names of those modules begin; "" for all of them.
    """

    def __init__(self, kind: str, *, package: str, modules: str = "") -> None:
        self.kind = kind
        self.package = package
        self.modules = modules
        self._objects: dict[str, Any] = {}
        self._walked = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files an object under `name`; a name is given once."""

        def add(obj: T) -> T:
            if name in self._objects and self._objects[name] is not obj:
                raise ValueError(f"{self.kind} {name!r} is already {self._objects[name]!r}")
            self._objects[name] = obj
            return obj

        return add

    def get(self, name: str) -> Any:
        """Return the object called `name`, or the one at "module.path:Name".

        Raises:
            ValueError: no such name; the message lists what exists.
        """
        if ":" in name:
            return self._from_path(name)
        if name not in self._objects:
            self._walk()
        if name not in self._objects:
            near = difflib.get_close_matches(name, self._objects, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no {self.kind} {name!r}; there are {self.names()}{hint}")
        return self._objects[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._walk()
        return sorted(self._objects)

    def _walk(self) -> None:
        if self._walked:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, prefix=self.package + "."):
            if module.name.rpartition(".")[2].startswith(self.modules):
                importlib.import_module(module.name)
        self._walked = True

    def _from_path(self, path: str) -> Any:
        module_name, _, name = path.partition(":")
        try:
            return getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{self.kind} {path!r} cannot be imported: {error}") from error


def construct(cls: type[T], *args: Any, options: Mapping[str, Any], key: str) -> T:
    """Make `cls(*args, **options)` after matching `options` with its keyword-only parameters.

    Args:
        options: the free section of a configuration that belongs to this class.
        key: the name of that section, for messages ("METHOD.CONFIG").

    Raises:
        ValueError: an option that the class does not take, or lacks.
    """
    check_options(cls, options, key=key)
    return cls(*args, **options)


def check_options(cls: type, options: Mapping[str, Any], *, key: str) -> None:
    """Match options with the keyword-only parameters of a class, as `construct` does, without the call.

    Raises:
        ValueError: an option that the class does not take, or lacks, or of another sort than its default.
    """
    parameters = inspect.signature(cls).parameters.values()
    known = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{key} has {unknown}; {cls.__name__} takes {list(known)}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    if missing:
        raise ValueError(f"{key} lacks {missing}, which {cls.__name__} cannot do without")
    for name, value in options.items():
        wanted = _kind(known[name].default)
        if wanted and _kind(value) != wanted:
            raise ValueError(f"{key}.{name} is {value!r}; {wanted} is wanted")


def _kind(value: object) -> str:
    """What sort of value this is; "" for those that may be replaced by others."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else ""
