# SPDX-License-Identifier: Apache-2.0
"""What is found out about a model's folder before anything is loaded."""

from diffnext.engine import check


def test_weights_of_another_format_are_not_taken_for_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert not check.has_weights(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    assert check.has_weights(tmp_path)
    assert check.saved_shapes(tmp_path) is None
