# SPDX-License-Identifier: Apache-2.0
"""One page about a run, or several side by side: curves, samples, options, what they ran on."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from PIL import Image

from diffnext.utils import html
from diffnext.utils.metrics import Row, mean, read_rows

POINTS = 400  # of a curve; more steps are averaged
TIMES, PROMPTS = 6, 6  # of samples that are shown
WIDTH = 256  # pixels of a picture
Curve = list[tuple[float, float]]
CHARTS: list[tuple[str, Callable[[Row], float | None], bool]] = [  # title, value, logarithmic
    ("Learning rate", lambda row: row.get("lr"), False),
    ("Norm of the gradients, before clipping", lambda row: row.get("grad_norm"), True),
    ("Samples a second", lambda row: row.get("samples_per_s"), False),
    ("Seconds a step", lambda row: row.get("step_time"), False),
    ("Part of a step that waits for data, %", lambda row: _wait(row), False),
    ("Peak memory, GiB", lambda row: _scaled(row.get("memory"), 2**-30), False),
]
EVENTS = re.compile(r"resumed from|not finite|WARNING|ERROR")  # lines of the log that are shown


@dataclass(frozen=True)
class Run:
    """What an experiment folder says."""

    name: str
    folder: Path
    rows: list[Row]
    evaluations: list[Row]
    about: dict[str, str]  # versions, commit, machine
    config: dict[str, Any]
    best: dict[str, Any]  # of best.json; empty without evaluations
    events: list[str]


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run, which may be going on.

    Raises:
        ValueError: there is no config.yaml, so it is no experiment folder.
    """
    folder = Path(folder)
    file = folder / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give the experiment folder of a run (--exp-dir)")
    config = file.read_text(encoding="utf-8")
    log = folder / "logs" / "train.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return Run(
        name=folder.resolve().name,
        folder=folder,
        rows=read_rows(folder / "logs" / "metrics.jsonl"),
        evaluations=read_rows(folder / "logs" / "eval.jsonl"),
        about=dict(re.findall(r"^# ([\w-]+): (.*)$", config, re.MULTILINE)),
        config=_flat(yaml.safe_load(config)),
        best=_json(folder / "best.json"),
        events=[line for line in text.splitlines() if EVENTS.search(line)],
    )


def make_page(runs: Sequence[Run]) -> str:
    """The page, with everything that it shows inside."""
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=str(run.folder)) for run in runs]
    parts = [html.section("Summary", _summary(runs), _about(runs)), _losses(runs)]
    parts += [_evaluations(runs)] if any(run.evaluations for run in runs) else []
    parts += [samples for run in runs if (samples := _samples(run))]
    charts = [
        f"<h3>{title}</h3>{_chart({run.name: _curve(run.rows, value) for run in runs}, log_y=log)}"
        for title, value, log in CHARTS
    ]
    parts.append(html.section("Course", *charts))
    parts += [_events(run) for run in runs if run.events]
    parts.append(html.section("Options", _options(runs)))
    return html.page(", ".join(run.name for run in runs), *parts)


# ------------------------------------------------------------------------------------ sections


def _summary(runs: Sequence[Run]) -> str:
    header = ["run", "steps", "loss", "held-out loss", "best checkpoint", "hours", "samples/s"]
    header += ["waiting for data", "peak memory", "skipped", "resumed"]
    return html.table(header, [_figures(run) for run in runs])


def _figures(run: Run) -> list[str]:
    rows, last = run.rows, run.rows[-100:]
    waits = [wait for row in rows if (wait := _wait(row)) is not None]
    rates = [row["samples_per_s"] for row in rows if row.get("samples_per_s") is not None]
    held = [f"{name} {row[name]:.4f}" for row in run.evaluations[-1:] for name in _means(row)]
    return [
        run.name,
        f"{rows[-1]['step'] if rows else 0} of {run.config.get('SOLVER.MAX_STEPS', '?')}",
        f"{mean(last, 'loss'):.4f} (last {len(last)} steps)",
        ", ".join(held) or "not evaluated",
        str(run.best.get("checkpoint", "-")),
        f"{sum(row.get('step_time') or 0 for row in rows) / 3600:.2f}",
        f"{median(rates):.1f}" if rates else "-",
        f"{sum(waits) / len(waits):.1f} %" if waits else "-",
        f"{max(row.get('memory') or 0 for row in rows) / 2**30:.2f} GiB" if rows else "-",
        f"{sum(row.get('skipped') or 0 for row in rows):.0f} steps",
        f"{sum('resumed from' in line for line in run.events)} times",
    ]


def _about(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.about))
    rows = [[name, *(run.about.get(name, "") for run in runs)] for name in names]
    return "<h3>Environment</h3>" + html.table(["", *(run.name for run in runs)], rows)


def _losses(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(
        n for run in runs for row in run.rows for n in row if n.startswith("loss")
    )
    series = {
        _label(run, name, runs): _curve(run.rows, lambda row, n=name: row.get(n))
        for run in runs
        for name in names
    }
    size = max(_bin(len(run.rows)) for run in runs)
    note = [html.paragraph(f"Each point is the mean of up to {size} steps.")] if size > 1 else []
    return html.section("Training loss", *note, _chart(series))


def _evaluations(runs: Sequence[Run]) -> str:
    """The mean held-out loss, then by timestep and by share of masked tokens, then the last grid."""
    means = {
        _label(run, name, runs): _curve(run.evaluations, lambda row, n=name: row.get(n))
        for run in runs
        for name in dict.fromkeys(n for row in run.evaluations for n in _means(row))
    }
    parts = [_chart(means)]
    for run in runs:
        last = run.evaluations[-1] if run.evaluations else {}
        prefix = "eval_ema" if "eval_ema/loss" in last else "eval"
        for what, letter in (("timestep (1000 is noise)", "t"), ("percent of hidden tokens", "m")):
            found = [n for n in last if re.fullmatch(rf"{prefix}/loss_{letter}[\d.]+", n)]
            series = {
                n.rpartition("_")[2]: _curve(run.evaluations, lambda row, n=n: row.get(n))
                for n in found
            }
            if found:
                parts.append(f"<h3>{escape(run.name)}: by {what}</h3>" + _chart(series))
        parts.append(_grid(run, last, prefix))
    return html.section("Held-out loss", *parts)


def _grid(run: Run, last: Row, prefix: str) -> str:
    """The latest loss at each timestep and share of masked tokens."""
    cells = {
        found.groups(): last[name]
        for name in last
        if (found := re.fullmatch(rf"{prefix}/loss_t([\d.]+)_m([\d.]+)", name))
    }
    if not cells:
        return ""
    times, masks = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    rows = [[f"t {t}", *(_number(cells.get((t, m))) for m in masks)] for t in times]
    title = f"<h3>{escape(run.name)}: step {last['step']}, by timestep and percent hidden</h3>"
    return title + html.table(["", *(f"{m} %" for m in masks)], rows)


def _samples(run: Run) -> str:
    """Files of a few prompts, a line each, from the first time to the last."""
    found = {
        int(folder.name[5:]): sorted(path for path in folder.iterdir() if _whole(path))
        for folder in run.folder.glob("samples/step_*")
        if folder.name[5:].isdigit()
    }
    steps = _spread(sorted(step for step, files in found.items() if files), TIMES)
    lines = []
    for name in [path.name for path in found[steps[-1]][:PROMPTS]] if steps else []:
        files = [(s, p) for s in steps for p in found[s] if p.name == name]
        lines.append("<p>" + "".join(_figure(path, f"step {s}") for s, path in files) + "</p>")
        lines.append(html.paragraph(_prompt(files[-1][1])))
    return html.section(f"Samples of {run.name}", *lines) if lines else ""


def _whole(path: Path) -> bool:
    """Whether this is a sample that was written to its end, which is the file beside it."""
    return path.suffix in html.MEDIA_TYPES and bool(_json(path.with_suffix(".json")))


def _figure(path: Path, caption: str) -> str:
    """A file of samples; large pictures are made small."""
    if path.suffix != ".png":
        return html.figure(path, caption)
    picture = Image.open(path)
    picture.thumbnail((WIDTH, WIDTH))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return html.embed(file.getvalue(), "image/png", caption)


def _prompt(path: Path) -> str:
    return str(_json(path.with_suffix(".json")).get("prompt", ""))


def _events(run: Run) -> str:
    shown = run.events[-50:]
    note = html.paragraph(f"The last {len(shown)} of {len(run.events)} such lines of the log.")
    return html.section(f"Resumes and warnings of {run.name}", note, _text("\n".join(shown)))


def _options(runs: Sequence[Run]) -> str:
    """Options that differ between the runs, and all of each."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: [str(run.config.get(name, "")) for run in runs] for name in names}
    different = [[name, *found] for name, found in values.items() if len(set(found)) > 1]
    parts = []
    if len(runs) > 1:
        header = ["option", *(run.name for run in runs)]
        parts.append(html.table(header, different) if different else html.paragraph("All alike."))
    for run in runs:
        text = "\n".join(f"{name}: {value}" for name, value in run.config.items())
        parts.append(f"<details><summary>{escape(run.name)}</summary>{_text(text)}</details>")
    return "".join(parts)


# -------------------------------------------------------------------------------------- pieces


def _chart(series: Mapping[str, Curve], *, log_y: bool = False) -> str:
    return html.line_chart(series, x_label="step", log_y=log_y)


def _curve(rows: Sequence[Row], value: Callable[[Row], float | None]) -> Curve:
    """(step, value) of the rows that have one, means of neighbours where they are many."""
    points = [(row["step"], v) for row in rows if (v := value(row)) is not None]
    size = _bin(len(points))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _bin(count: int) -> int:
    """How many points of `count` become one."""
    return max(1, -(-count // POINTS))


def _label(run: Run, name: str, runs: Sequence[Run]) -> str:
    return name if len(runs) == 1 else f"{run.name} {name}"


def _means(row: Row) -> list[str]:
    """Names of the mean losses of an evaluation that are numbers."""
    return [n for n in ("eval/loss", "eval_ema/loss") if row.get(n) is not None]


def _wait(row: Row) -> float | None:
    """Percent of a step's time that data took."""
    if row.get("data_wait") is None or not row.get("step_time"):
        return None
    return 100 * (row["data_wait"] + (row.get("data_transfer") or 0)) / row["step_time"]


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` values, evenly spread, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none, or its writer was killed."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}


def _text(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their full names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
