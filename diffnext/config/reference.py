# SPDX-License-Identifier: Apache-2.0
"""Writes docs/config.md: `python -m diffnext.config.reference > docs/config.md`.

Names and defaults are those of the tree itself; what an option means is the comment above its line in
defaults.py.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from diffnext.config import defaults, yaml_text
from diffnext.config.node import CfgNode

_HEAD = """\
# Options

Generated from `diffnext/config/defaults.py` by `python -m diffnext.config.reference`; a test compares.

An option is set in the YAML file that `--cfg` names, or after all flags as `KEY VALUE` pairs, which win:

```bash
python scripts/train.py --cfg my_run.yml SOLVER.BASE_LR 5e-5 MODEL.CONFIG.image_size 64
```

- `_BASE_: other.yml` (or a list) at the top of a file takes over the values of another one first; its
  path is relative to the file.
- A name that does not exist is an error, and so is a value of another type. An integer or a numeral
  serves as a float, a whole float such as `1e4` as an integer, `null` as an empty text, a list as a
  tuple; `nan` is no number.
- A section of type *free* takes any names: those of the options of the class it belongs to, which
  refuses what it does not know. It may also be the path of a YAML or JSON file with these options,
  relative to the file that says so; names in it that begin with `_` are passed over. Values given in
  several places are merged.
- In Python, `from diffnext.config import cfg` is the tree of defaults to set values in, and
  `open("my_run.yml", "w").write(str(cfg))` writes a file that restores all of them.
"""
_DECLARATION = re.compile(r"((?:# .*\n)+)_C\.([\w.]+) = ")


def meanings() -> dict[str, str]:
    """Return what each option and section is for, by its full name."""
    found = {}
    for comment, name in _DECLARATION.findall(inspect.getsource(defaults)):
        found[name] = " ".join(line.removeprefix("# ") for line in comment.splitlines())
    return found


def _row(name: str, value: Any, types: tuple[type, ...], meaning: str) -> str:
    kind = "free" if isinstance(value, CfgNode) else " or ".join(kind.__name__ for kind in types)
    default = yaml_text.dump({"": value}).split(": ", 1)[1].strip()
    return f"| `{name}` | {kind} | `{default}` | {meaning} |"


def _table(section: CfgNode, prefix: str, texts: dict[str, str]) -> list[str]:
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for key, value in section.items():
        if not _is_section(value):
            lines.append(_row(prefix + key, value, section.types_of(key), texts[prefix + key]))
    return lines


def _is_section(value: Any) -> bool:
    return isinstance(value, CfgNode) and not value.is_new_allowed()


def reference() -> str:
    """Return the reference of all options as Markdown."""
    tree, texts = defaults.get_cfg(), meanings()
    lines = [_HEAD, "## The run", "", *_table(tree, "", texts)]
    for name, section in tree.items():
        if _is_section(section):
            lines += ["", f"## {name}", "", texts[name], "", *_table(section, f"{name}.", texts)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
