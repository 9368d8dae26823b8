# SPDX-License-Identifier: Apache-2.0
"""Older address of the flow scheduler, which published checkpoints name."""

from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler

__all__ = ["FlowMatchEulerDiscreteScheduler"]
