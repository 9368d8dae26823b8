# SPDX-License-Identifier: Apache-2.0
"""Families of networks at training time, by the names that PIPELINE.TYPE gives them.

A family stands in a module called pipeline_train_*: asking for one imports these alone, not the
pipelines that sample.
"""

from diffnext.utils.registry import Registry

PIPELINES = Registry("PIPELINE.TYPE", package="diffnext.pipelines", modules="pipeline_train_")
