# SPDX-License-Identifier: Apache-2.0
"""Pipelines are made of a folder's components, and of those that replace them."""

import json
from types import SimpleNamespace

import pytest
import torch

from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines import NOVAPipeline
from diffnext.pipelines.builder import PIPELINES, build_pipeline, get_pipeline_path
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from tests.pipelines import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("t2i")
    tiny.t2i().save_pretrained(path)
    return str(path)


def rename(folder, **names):
    """The folder's scheduler with other entries in its json."""
    file = folder / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | names))


def test_a_training_pipeline_learns_in_float32(folder):
    pipe = build_pipeline(folder, "nova_train_t2i", "float16", dropout=0.25)
    assert type(pipe) is PIPELINES.get("nova_train_t2i")
    assert pipe.model.dtype == torch.float32
    assert pipe.text_encoder.dtype == torch.float16
    assert not any(p.requires_grad for p in pipe.text_encoder.parameters())
    assert pipe.dropout == 0.25
    saved = NOVATransformer3DModel.from_pretrained(folder + "/transformer").state_dict()
    for name, value in pipe.model.state_dict().items():
        assert torch.equal(value, saved[name])


def test_a_configuration_takes_the_place_of_the_arguments(folder):
    config = SimpleNamespace(
        PIPELINE=SimpleNamespace(TYPE="nova_train_t2i", MODULES={"text_encoder": ""}),
        MODEL=SimpleNamespace(
            PRECISION="float32", CONFIG={"arch": ["vit_d1w64"] * 2 + ["mlp_d1w64"]}
        ),
    )
    pipe = build_pipeline(folder, config=config)
    assert pipe.text_encoder is None and pipe.tokenizer is not None
    assert len(pipe.model.image_encoder.blocks) == 1
    assert pipe.model.config.image_size == 32  # what is not named stays


def test_a_pipeline_for_sampling(folder):
    pipe = build_pipeline(folder, NOVAPipeline, "bfloat16")
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.filterwarnings("error:.*torch_dtype")
def test_the_precision_has_two_names(folder, name):
    pipe = NOVAPipeline.from_pretrained(folder, text_encoder=None, **{name: torch.bfloat16})
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="two names of one argument"):
        NOVAPipeline.from_pretrained(folder, dtype=torch.float16, torch_dtype=torch.float16)


def test_training_and_sampling_may_have_different_schedulers(folder, tmp_path):
    path = tmp_path / "scheduler"
    DDPMScheduler().save_pretrained(path)
    names = {"_noise_class_name": "DDPMScheduler", "_sample_class_name": "DDIMScheduler"}
    rename(path, **names)
    changed = {"scheduler": str(path)}
    train = build_pipeline(folder, "nova_train_t2i", modules=changed)
    assert type(train.scheduler) is DDPMScheduler
    sample = build_pipeline(folder, NOVAPipeline, modules=changed)
    assert type(sample.scheduler).__name__ == "DDIMScheduler"
    assert sample.scheduler.config["beta_end"] == train.scheduler.config["beta_end"]
    rename(path, _sample_class_name="Nothing")
    with pytest.raises(ValueError, match="_sample_class_name 'Nothing'"):
        build_pipeline(folder, NOVAPipeline, modules=changed)


def test_an_older_address_leads_to_the_same_class(folder, tmp_path):
    path = get_pipeline_path(folder, {"text_encoder": ""}, target_path=str(tmp_path / "model"))
    scheduler = tmp_path / "flow"
    FlowMatchEulerDiscreteScheduler().save_pretrained(scheduler)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    module = "diffnext.schedulers.scheduling_flow"
    index["scheduler"] = [module, "FlowMatchEulerDiscreteScheduler"]
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    pipe = build_pipeline(path, NOVAPipeline, modules={"scheduler": str(scheduler)})
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler


def test_a_path_with_replaced_parts(folder, tmp_path):
    config = {**json.loads(open(folder + "/vae/config.json").read()), "scaling_factor": 0.7}
    target = str(tmp_path / "made")
    path = get_pipeline_path(folder, {"text_encoder": ""}, {"vae": config}, target)
    pipe = NOVAPipeline.from_pretrained(path)
    assert path == target
    assert pipe.text_encoder is None
    assert pipe.vae.config.scaling_factor == 0.7
    assert get_pipeline_path(folder) == folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pipe_type": "nova_train_t2j"}, "did you mean"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"modules": {"text": ""}}, r"PIPELINE.MODULES has \['text'\]"),
        ({"modules": {"vae": ""}}, "has no vae, which training needs"),
        ({"model_config": {"archs": []}}, r"MODEL.CONFIG has \['archs'\]; NOVATransformer3DModel"),
        ({"droput": 0.1}, r"\['droput'\]"),
    ],
)
def test_what_does_not_exist_is_named(folder, arguments, said):
    with pytest.raises(ValueError, match=said):
        build_pipeline(folder, **({"pipe_type": "nova_train_t2i"} | arguments))


def test_a_folder_that_is_no_pipeline_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder of a pipeline is wanted"):
        build_pipeline(str(tmp_path), "nova_train_t2i")


def test_a_class_that_diffnext_lacks_is_named(folder, tmp_path):
    path = get_pipeline_path(folder, {"text_encoder": ""}, target_path=str(tmp_path / "model"))
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    index["vae"] = ["diffnext.models.autoencoders.other", "Other"]
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"other\.Other, which diffnext does not have"):
        NOVAPipeline.from_pretrained(path)
