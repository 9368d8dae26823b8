# SPDX-License-Identifier: Apache-2.0
"""The report shows the measured shares, marks what is wrong and draws the logged losses."""

import json

from PIL import Image

from diffnext.shapes.report import Step, Task, losses, write_report


def make_task(folder):
    Image.new("RGB", (8, 8), "red").save(folder / "0.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "1.png")
    entry = {"prompt": "a red circle", "margins": {}, "seen": {"colour": "red", "shape": "ring"}}
    right = {"colour": True, "shape": True, "single": True}
    pictures = [
        entry | {"file": "0.png", "right": right},
        entry | {"file": "1.png", "right": right | {"shape": False}},
    ]
    scores = {"summary": {"count": 2, "colour": 1.0, "shape": 0.5}, "pictures": pictures}
    (folder / "scores.json").write_text(json.dumps(scores))
    rows = [{"step": step, "loss": 1.0, "lr": 0.1} for step in range(3)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Task("pictures", folder / "metrics.jsonl", folder / "scores.json", folder)


def test_a_report_says_what_was_measured(tmp_path):
    steps = [Step("train", "scripts/train.py", 90.0), Step("score", "tools/score_shapes.py", 30.0)]
    page = write_report(tmp_path / "out" / "report.html", steps, [make_task(tmp_path)])
    text = page.read_text()
    assert "<td>100%</td><td>50%</td>" in text
    assert "2.0 min" in text
    assert text.count('class="right"') == 1 and text.count('class="wrong"') == 1
    assert "Seen: shape ring." in text
    assert "http" not in text


def test_a_constant_loss_stays_constant_when_smoothed(tmp_path):
    make_task(tmp_path)
    assert losses(tmp_path / "metrics.jsonl") == {"loss": [(0, 1.0), (1, 1.0), (2, 1.0)]}
