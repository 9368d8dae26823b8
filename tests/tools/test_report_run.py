# SPDX-License-Identifier: Apache-2.0
"""The page of a run shows its numbers and samples, in a browser too, and needs nothing else."""

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from diffnext.engine import report
from diffnext.utils.export_utils import export_to_image, export_to_video

SCRIPT = Path(__file__).parents[2] / "tools" / "report_run.py"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
CONFIG = """\
# diffnext: 0.1.0
# commit: 0123abcd
# command: train.py --cfg a.yml
SOLVER: {BASE_LR: 0.001, MAX_STEPS: 1000}
TRAIN: {DATASET: 'photos <b> & more'}
"""


@pytest.fixture(scope="module")
def write_report():
    spec = importlib.util.spec_from_file_location("report_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main(list(map(str, arguments)))


def make_run(folder, *, steps=900, samples=True):
    """The folder of a run that is going on."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    times = {"step_time": 0.5, "samples_per_s": 8.0, "data_wait": 0.1, "data_transfer": 0.025}
    rows = [
        {"step": n, "loss": 1 / n, "lr": 1e-3, "grad_norm": 2.0, "memory": 2**31, "skipped": n == 7}
        for n in range(1, steps + 1)
    ]
    text = "".join(json.dumps(row | times) + "\n" for row in rows)
    (logs / "metrics.jsonl").write_text(text + '{"step": 901, "lo')
    names = ("loss", "loss_t100", "loss_t900", "loss_m70", "loss_m100")
    names += ("loss_t100_m70", "loss_t100_m100", "loss_t900_m70", "loss_t900_m100")
    evaluations = [
        {"step": n, **{f"eval/{name}": 2 - n / 1000 + i / 8 for i, name in enumerate(names)}}
        for n in (0, 400, 800)
    ]
    (logs / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations))
    (logs / "train.log").write_text("12:00 INFO resumed from x at step 400\n12:01 INFO nothing\n")
    (folder / "best.json").write_text('{"step": 800, "checkpoint": "checkpoints/a_iter_800"}')
    for step in range(0, 900, 100) if samples else ():
        place = folder / "samples" / f"step_{step}"
        place.mkdir(parents=True)
        frames = np.full((2, 32, 32, 3), 25 * step // 100, np.uint8)
        export_to_image(np.repeat(np.repeat(frames[0], 16, 0), 16, 1), str(place / "00000.png"))
        export_to_video(frames, str(place / "00001.mp4"))
        for name in ("00000", "00001"):
            (place / f"{name}.json").write_text(json.dumps({"prompt": f"prompt <{name}>"}))
    return folder


class Checker(HTMLParser):
    """Follows the tags, and gathers what the page would fetch."""

    VOID = ("meta", "img", "br", "polyline", "path")

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.counts = [], [], {}

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.sources += [v for k, v in attributes if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert all(source.startswith("data:") for source in checker.sources)
    return checker.counts


def cells(page):
    """The rows of all tables, by their first cell."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    found = [[html.unescape(c) for c in re.findall(r"<t[dh]>(.*?)</t[dh]>", r)] for r in rows]
    return {row[0]: row[1:] for row in found}


def test_a_run_that_is_going_on(write_report, tmp_path):
    run = make_run(tmp_path / "run")
    assert write_report(run) == 0
    page = (run / "report.html").read_text()
    counts = checked(page)
    assert counts["svg"] == 2 + 2 + 6  # losses, levels, course
    assert counts["img"] == counts["video"] == report.TIMES
    found = cells(page)
    loss = f"{sum(1 / n for n in range(801, 901)) / 100:.4f} (last 100 steps)"
    summary = ["900 of 1000", loss, "eval/loss 1.2000", "checkpoints/a_iter_800", "0.12", "8.0"]
    assert found["run"] == [*summary, "25.0 %", "2.00 GiB", "1 steps", "1 times"]
    assert found["commit"] == ["0123abcd"]
    assert found["t 900"] == ["2.0750", "2.2000"]  # the grid of the latest evaluation
    assert "prompt &lt;00001&gt;" in page and "photos &lt;b&gt; &amp; more" in page
    assert "resumed from x at step 400" in page and "INFO nothing" not in page


def test_curves_are_means_of_neighbouring_steps(tmp_path):
    run = report.read_run(make_run(tmp_path / "run", samples=False))
    page = report.make_page([run])
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    line = next(ElementTree.fromstring(svg).iter("polyline")).get("points").split()
    assert len(line) == 300 <= report.POINTS  # of 900 steps
    assert "Each point is the mean of up to 3 steps." in page
    (step, value), *_ = report._curve(run.rows, lambda row: row["loss"])
    assert step == 3 and value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_runs_side_by_side(write_report, tmp_path):
    first = make_run(tmp_path / "a" / "run", samples=False)
    second = make_run(tmp_path / "b" / "run", steps=1, samples=False)
    text = CONFIG.replace("0.001", "0.002")
    (second / "config.yaml").write_text(text)
    assert write_report(first, "--compare", second, "--out", tmp_path / "new" / "both.html") == 0
    page = (tmp_path / "new" / "both.html").read_text()
    checked(page)
    assert cells(page)["SOLVER.BASE_LR"] == ["0.001", "0.002"]
    assert "SOLVER.MAX_STEPS" not in cells(page)
    assert f">{first} loss</tspan>" in page and f">{second} loss</tspan>" in page


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    page = report.make_page([report.read_run(tmp_path)])
    checked(page)
    assert "0 of 1000" in page and "No points to draw" in page


def test_what_a_killed_run_has_left_half_written_is_left_out(write_report, tmp_path):
    run = make_run(tmp_path / "run")
    whole = run / "samples/step_700/00000.png"
    for name, content in (("step_800", whole.read_bytes()[:99]), ("step_latest", b"")):
        place = run / "samples" / name
        place.mkdir(exist_ok=True)
        (place / "00000.png").write_bytes(content)  # beside which nothing says how it was made
    (run / "samples/step_800/00000.json").unlink()
    (run / "samples/step_800/00001.json").write_text('{"prompt": "a')
    with open(run / "logs/train.log", "ab") as log:
        log.write("12:02 WARNING \u00e9".encode()[:-1])
    assert write_report(run) == 0
    page = (run / "report.html").read_text()
    assert checked(page)["img"] == checked(page)["video"] == report.TIMES
    assert "step 700</figcaption>" in page and "step 800</figcaption>" not in page
    assert "12:02 WARNING" in page


def test_losses_that_are_not_finite_and_a_single_step_make_a_page(write_report, tmp_path):
    run = make_run(tmp_path / "run", steps=1, samples=False)
    row = {"step": 1, "loss": None, "lr": 1e-3, "grad_norm": None, "skipped": 1, "step_time": 0.0}
    (run / "logs/metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run / "logs/eval.jsonl").write_text('{"step": 0, "eval/loss": null, "eval/loss_t100": null}\n')
    assert write_report(run) == 0
    found = cells((run / "report.html").read_text())
    assert found["run"][:3] == ["1 of 1000", "nan (last 1 steps)", "not evaluated"]
    assert found["run"][-2:] == ["1 steps", "1 times"]


def test_what_is_no_run_is_named(write_report, tmp_path, capsys):
    assert write_report(tmp_path) == 2
    assert "config.yaml does not exist; give the experiment folder" in capsys.readouterr().err


PROBE = """<script>
addEventListener("load", () => {
  const all = (name) => [...document.querySelectorAll(name)];
  const seen = {
    images: all("img").map((image) => image.naturalWidth),
    videos: all("video").map((video) => video.readyState),
    charts: all("polyline").map((line) => line.getBBox().width > 100),
    inside: all("svg text").every((text) => {
      const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
      return box.left >= frame.left - 1 && box.right <= frame.right + 1;
    }),
    overflow: document.documentElement.scrollWidth - innerWidth,
    fetched: performance.getEntriesByType("resource").filter((e) => !e.name.startsWith("data:")).length,
  };
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>"""


@pytest.mark.skipif(not BROWSER, reason="no chromium")
def test_a_browser_shows_it_all(tmp_path):
    page = report.make_page([report.read_run(make_run(tmp_path / "run"))])
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000"]
    command += ["--dump-dom", (tmp_path / "page.html").as_uri()]
    home = os.environ | {"HOME": str(tmp_path)}  # where it keeps reports of crashes
    dom = subprocess.run(command, env=home, capture_output=True, text=True, check=True).stdout
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert seen["images"] == [report.WIDTH] * report.TIMES
    assert len(seen["videos"]) == report.TIMES
    assert seen["charts"] and all(seen["charts"])
    assert seen["inside"] and seen["overflow"] <= 0 and seen["fetched"] == 0
