# SPDX-License-Identifier: Apache-2.0
"""From the options of a run to its objects: the one package of the library that is handed the config.

Its names are imported when they are asked for: a run whose data do not fit its model is refused before
the networks' libraries are imported.
"""

from diffnext.utils.lazy import on_demand

__getattr__ = on_demand(
    __name__,
    {
        "Given": "diffnext.engine.build.given",
        "Plan": "diffnext.engine.build.plan",
        "build_trainer": "diffnext.engine.build.run",
        "check_start": "diffnext.engine.build.start",
        "compare_given": "diffnext.engine.build.given",
        "describe_plan": "diffnext.engine.build.describe",
        "find_start": "diffnext.engine.build.start",
        "make_plan": "diffnext.engine.build.plan",
        "survey": "diffnext.engine.build.needs",
    },
)
