# SPDX-License-Identifier: Apache-2.0
"""Options of a run: `cfg` is the template of this process, `get_cfg()` a fresh copy of the defaults.

For scripts and tools; the library is handed values.
"""

from diffnext.config.defaults import get_cfg
from diffnext.config.node import CfgNode
from diffnext.config.yaml_text import ConfigError

cfg = get_cfg()

__all__ = ["CfgNode", "ConfigError", "cfg", "get_cfg"]
