# SPDX-License-Identifier: Apache-2.0
"""Addresses that published checkpoints, guides and scripts use keep leading to the right thing."""

import importlib
import subprocess
import sys

import pytest

PATHS = [
    "diffnext.models.autoencoders.autoencoder_kl:AutoencoderKL",
    "diffnext.models.autoencoders.autoencoder_kl_opensora:AutoencoderKLOpenSora",
    "diffnext.models.autoencoders.autoencoder_kl_ltx:AutoencoderKLLTXVideo",
    "diffnext.models.autoencoders.autoencoder_kl_cogvideox:AutoencoderKLCogVideoX",
    "diffnext.models.transformers.transformer_nova:NOVATransformer3DModel",
    "diffnext.models.text_encoders.phi:PhiEncoderModel",
    "diffnext.schedulers.scheduling_ddpm:DDPMScheduler",
    "diffnext.schedulers.scheduling_cfm:FlowMatchEulerDiscreteScheduler",
    "diffnext.schedulers.scheduling_flow:FlowMatchEulerDiscreteScheduler",
    "diffnext.pipelines.nova.pipeline_nova:NOVAPipeline",
    "diffnext.pipelines.nova.pipeline_nova_c2i:NOVAC2IPipeline",
    "diffnext.pipelines.nova.pipeline_train_t2i:NOVATrainT2IPipeline",
    "diffnext.pipelines.nova.pipeline_train_t2v:NOVATrainT2VPipeline",
    "diffnext.pipelines.nova.pipeline_train_c2i:NOVATrainC2IPipeline",
    "diffnext.pipelines:NOVAPipeline",
    "diffnext.pipelines.builder:build_pipeline",
    "diffnext.utils:export_to_image",
    "diffnext.utils:export_to_video",
    "diffnext.image_processor:VaeImageProcessor",
    "diffnext.config:cfg",
]


def resolve(path):
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", PATHS)
def test_a_public_path_resolves(path):
    assert resolve(path) is not None


@pytest.mark.parametrize("path", [path for path in PATHS if ":NOVA" in path or "models." in path])
def test_a_class_has_the_name_that_checkpoints_say(path):
    assert resolve(path).__name__ == path.split(":")[1]


def test_both_addresses_of_a_thing_give_the_same_thing():
    cfm, flow = (
        resolve(f"diffnext.schedulers.scheduling_{name}:FlowMatchEulerDiscreteScheduler")
        for name in ("cfm", "flow")
    )
    assert cfm is flow
    nova = resolve("diffnext.pipelines:NOVAPipeline")
    assert nova is resolve("diffnext.pipelines.nova.pipeline_nova:NOVAPipeline")


@pytest.mark.parametrize("task", ["t2i", "t2v", "c2i"])
def test_train_pipelines_are_registered_under_the_names_of_the_guide(task):
    builder = importlib.import_module("diffnext.pipelines.builder")
    path = f"diffnext.pipelines.nova.pipeline_train_{task}:NOVATrain{task.upper()}Pipeline"
    assert builder.PIPELINES.get(f"nova_train_{task}") is resolve(path)


@pytest.mark.parametrize("module", ["diffnext", "diffnext.config"])
def test_the_front_door_is_light(module):
    heavy = ("torch", "diffusers", "transformers", "numpy", "PIL", "av", "decord")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
