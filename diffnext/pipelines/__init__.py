# SPDX-License-Identifier: Apache-2.0
"""Pipelines: what a family of networks makes of prompts, and of records."""

from diffnext.utils.lazy import on_demand

__getattr__ = on_demand(
    __name__,
    {
        "NOVAPipeline": "diffnext.pipelines.nova.pipeline_nova",
        "NOVAC2IPipeline": "diffnext.pipelines.nova.pipeline_nova_c2i",
    },
)
