# SPDX-License-Identifier: Apache-2.0
"""Checks the rules of the source tree: imports, lengths of files and functions, ASCII, the licence line.

`python tools/check_house.py` prints each breach as FILE:LINE: WHAT and exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("diffnext", "scripts", "tools", "benchmarks", "tests")
MAX_LINES = 400  # of a file
MAX_BODY = 40  # lines of a function, apart from its signature and docstring: what a screen shows
LICENCE = "# SPDX-License-Identifier: Apache-2.0"

# What each part of the package may import of the others: a part, or one module of it. The order is
# that of the layers, lowest first; nothing imports upwards.
MAY_IMPORT = {
    "utils": (),
    "codewithgpu_compat": (),
    "config": ("utils",),
    "models": ("utils",),
    "schedulers": ("utils",),
    "distributed": ("utils",),
    "image_processor": ("utils",),
    "shapes": ("utils",),
    "data": ("utils",),
    "pipelines": ("data.schema", "image_processor", "models", "schedulers", "utils"),
    "methods": ("data.schema", "models", "pipelines.train_base", "schedulers", "utils"),
    "engine": (
        "data",
        "distributed",
        "image_processor",
        "methods",
        "models",
        "pipelines",
        "schedulers",
        "shapes",
        "utils",
    ),
}
# The engine reaches families and methods through their registries, never by name.
ENGINE_MAY_NAME = (
    "methods",
    "methods.base",
    "pipelines",
    "pipelines.builder",
    "pipelines.families",
    "pipelines.sampling",
    "pipelines.sources",
    "pipelines.train_base",
)
# Outside modules that a part must do without.
MAY_NOT_IMPORT = {"data": ("torch.distributed",), "models": ("torch.distributed",)}
# The front door (`diffnext/__init__.py`) and the command line may import anything.
UNCHECKED = ("__init__", "cli")


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute name."""

    module: str
    line: int
    deferred: bool  # inside a function


@dataclass(frozen=True)
class Breach:
    """A rule that a line breaks."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Yield all imports of a syntax tree, those inside functions too.

    `from a import b` yields a.b, since b may be a module.

    Args:
        package: dotted name of the package that holds the file, for relative imports.
    """
    deferred = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            modules = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            yield Import(module, node.lineno, id(node) in deferred)


def _is_within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def _refusal(part: str, found: Import) -> str:
    """Return why a part may not import this, or an empty text."""
    if _is_within(found.module, MAY_NOT_IMPORT.get(part, ())):
        return f"{part} must do without {found.module}"
    inside = found.module.removeprefix("diffnext.")
    if inside == found.module:
        return ""
    if found.deferred:
        return f"{found.module} is imported inside a function; only optional packages are"
    if inside.split(".")[0] == part:
        return ""
    if not _is_within(inside, MAY_IMPORT[part]):
        return f"{part} may not import {found.module}; it may import {', '.join(MAY_IMPORT[part])}"
    if part == "engine" and inside.split(".")[0] in ("methods", "pipelines"):
        # the last name may be an object of a module that is allowed
        if inside not in ENGINE_MAY_NAME and inside.rpartition(".")[0] not in ENGINE_MAY_NAME:
            return f"engine may not import {found.module} by name; it goes through the registries"
    return ""


def layer_breaches(package: Path) -> list[Breach]:
    """Return the imports of a package's files that go where they may not."""
    breaches = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        part = where.parts[0].removesuffix(".py")
        if part in UNCHECKED:
            continue
        if part not in MAY_IMPORT:
            breaches.append(Breach(path, 1, f"{part} has no layer; give it one in MAY_IMPORT"))
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for found in imports(tree, ".".join([package.name, *where.parts[:-1]])):
            what = _refusal(part, found)
            if what:
                breaches.append(Breach(path, found.line, what))
    return breaches


def text_breaches(path: Path) -> list[Breach]:
    """Return what is wrong with the text of a file: lengths, characters, licence line, docstring."""
    lines = path.read_text(encoding="utf-8").splitlines()
    breaches = [
        Breach(path, number, f"not ASCII: {line.strip()!a}")
        for number, line in enumerate(lines, 1)
        if not line.isascii()
    ]
    if len(lines) > MAX_LINES:
        what = f"{len(lines)} lines, more than {MAX_LINES}: what is the second idea in this file?"
        breaches.append(Breach(path, MAX_LINES, what))
    head = [line for line in lines[:2] if not line.startswith("#!")]
    if lines and head[0] != LICENCE:
        breaches.append(Breach(path, 1, f"the first line must be {LICENCE!r}"))
    tree = ast.parse("\n".join(lines))
    if lines and ast.get_docstring(tree) is None:
        breaches.append(Breach(path, 2, "the module does not say what it is for"))
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = _body_length(function)
            if length > MAX_BODY:
                what = f"{function.name} has {length} lines, more than {MAX_BODY}: which are its steps?"
                breaches.append(Breach(path, function.lineno, what))
    return breaches


def _body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body if ast.get_docstring(function) is None else function.body[1:]
    return function.end_lineno - body[0].lineno + 1 if body else 0


def breaches(root: Path) -> list[Breach]:
    """Return every breach in the repository at `root`."""
    found = layer_breaches(root / "diffnext")
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            found += text_breaches(path)
    return found


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = breaches(ROOT)
    for breach in found:
        print(breach)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
