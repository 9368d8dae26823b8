# SPDX-License-Identifier: Apache-2.0
"""What is found out about a model's folder before anything is loaded."""

import os

import pytest
import torch
from safetensors.torch import save_file

from diffnext.engine import check, component_files


def test_weights_of_another_format_are_not_taken_for_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert not component_files.has_weights(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    assert component_files.has_weights(tmp_path)
    assert component_files.saved_shapes(tmp_path) is None


def test_weights_that_were_cut_off_are_named(tmp_path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"weight": torch.zeros(3, 5)}, path)
    assert component_files.saved_shapes(tmp_path) == {"weight": (3, 5)}
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"^{path} is damaged: .* save it again$"):
        component_files.saved_shapes(tmp_path)


@pytest.mark.parametrize("content", ["", '{"a": ', "[1]", "3"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^{path} is no JSON object: .* save it again$"):
        component_files.read_config(tmp_path)


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("hostile", [True, False])
def test_pickled_weights_run_no_code_and_are_refused_early(tmp_path, hostile):
    content = Evil(tmp_path / "trace") if hostile else torch.zeros(2)
    torch.save({"weight": content}, tmp_path / "diffusion_pytorch_model.bin")
    if not hostile:
        return component_files.check_weights(tmp_path, {})
    with pytest.raises(ValueError, match=r"bin is damaged, or holds more than tensors"):
        component_files.check_weights(tmp_path, {})
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("optimizer", "backend", "stage", "refused"),
    [
        ("Adafactor", "fsdp", 0, "fsdp splits them"),
        ("adafactor", "deepspeed", 1, "ZeRO splits them"),
        ("torch.optim.Adafactor", "fsdp", 0, "fsdp splits them"),
        ("diffnext.engine.muon:Muon", "deepspeed", 2, "ZeRO splits them"),
        ("Adagrad", "deepspeed", 3, "ZeRO splits them"),
        ("Adagrad", "fsdp", 0, ""),
        ("muon", "deepspeed", 0, ""),
        ("AdamW", "deepspeed", 3, ""),
    ],
)
def test_an_optimizer_of_whole_weights_gets_no_parts(optimizer, backend, stage, refused):
    def look():
        check.check_split(backend, {}, world=2, stage=stage, optimizer=optimizer)

    if not refused:
        return look()
    with pytest.raises(ValueError, match=f"{optimizer}', which needs whole weights, and {refused}"):
        look()
