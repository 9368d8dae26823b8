# SPDX-License-Identifier: Apache-2.0
"""Every class that a published model_index.json may name, in one module.

diffusers loads a component from a module that is imported already, and tells its kind by base
classes that it finds in the same module. Pipelines send it here, so that neither a folder nor an
address decides which code runs.
"""

from diffusers import ModelMixin, SchedulerMixin
from transformers import PreTrainedModel

from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffnext.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.models.text_encoders.phi import PhiEncoderModel
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLOpenSora",
    "DDPMScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "ModelMixin",
    "NOVATransformer3DModel",
    "PhiEncoderModel",
    "PreTrainedModel",
    "SchedulerMixin",
]
