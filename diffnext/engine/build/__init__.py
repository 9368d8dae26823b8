# SPDX-License-Identifier: Apache-2.0
"""From the options of a run to its objects: the one package of the library that is handed the config."""

from diffnext.engine.build.describe import describe_plan
from diffnext.engine.build.needs import survey
from diffnext.engine.build.plan import Plan, make_plan
from diffnext.engine.build.run import build_trainer
from diffnext.engine.build.start import check_start, find_start

__all__ = [
    "Plan",
    "build_trainer",
    "check_start",
    "describe_plan",
    "find_start",
    "make_plan",
    "survey",
]
