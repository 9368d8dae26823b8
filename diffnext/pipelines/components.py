# SPDX-License-Identifier: Apache-2.0
"""Every class that a published model_index.json may name, in one module, imported when it is asked for.

diffusers loads a component from a module that is imported already, and tells its kind by base
classes that it finds in the same module. Pipelines send it here, so that neither a folder nor an
address decides which code runs.
"""

from diffnext.models.autoencoders.kinds import KINDS
from diffnext.utils.lazy import on_demand

_ADDRESSES = {name: kind.module for name, kind in KINDS.items()} | {
    "DDPMScheduler": "diffnext.schedulers.scheduling_ddpm",
    "FlowMatchEulerDiscreteScheduler": "diffnext.schedulers.scheduling_cfm",
    "ModelMixin": "diffusers",
    "NOVATransformer3DModel": "diffnext.models.transformers.transformer_nova",
    "PhiEncoderModel": "diffnext.models.text_encoders.phi",
    "PreTrainedModel": "transformers",
    "SchedulerMixin": "diffusers",
}
__all__ = sorted(_ADDRESSES)
__getattr__ = on_demand(__name__, _ADDRESSES)
