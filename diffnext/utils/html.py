# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages: pictures, tables and line charts in one file, without scripts or links."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".mp4": "video/mp4"}
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
       color: #1f2328; background: #fff; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem; border: 1px solid #d1d9e0; text-align: left; }
figure { display: inline-block; margin: .4rem; width: 9rem; vertical-align: top; }
figure img, figure video { width: 9rem; image-rendering: pixelated; border: 3px solid #d1d9e0; }
figure.right img, figure.right video { border-color: #1a7f37; }
figure.wrong img, figure.wrong video { border-color: #d1242f; }
figcaption { font-size: .8rem; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
td { overflow-wrap: anywhere; } td:first-child { white-space: nowrap; }
svg text { font: 12px system-ui, sans-serif; fill: #57606a; }
"""


def page(title: str, *sections: str) -> str:
    """Join sections of HTML to a page."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{escape(title)}</h1>" + "\n".join(sections)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; every cell is escaped."""
    lines = ["<tr>" + "".join(f"<th>{escape(str(cell))}</th>" for cell in header) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def figure(path: str | Path, caption: str, *, right: bool | None = None) -> str:
    """Embed a picture or a video file with its caption; `right` frames it green or red."""
    path = Path(path)
    return embed(path.read_bytes(), MEDIA_TYPES[path.suffix.lower()], caption, right=right)


def embed(data: bytes, media_type: str, caption: str, *, right: bool | None = None) -> str:
    """The content of a picture or video file as a figure; see `figure`."""
    source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    if media_type.startswith("video"):
        media = f'<video src="{source}" autoplay loop muted playsinline></video>'
    else:
        media = f'<img src="{source}" alt="{escape(caption, quote=True)}">'
    mark = {True: ' class="right"', False: ' class="wrong"', None: ""}[right]
    return f"<figure{mark}>{media}<figcaption>{escape(caption)}</figcaption></figure>"


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, log_y: bool = False
) -> str:
    """Draw curves as SVG.

    Args:
        series: name -> points (x, y); points that are not finite, or not positive with `log_y`, are left out.
        x_label: what the horizontal axis counts.
        log_y: draw the logarithm of y.
    """
    curves = {name: _drawable(points, log_y) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return paragraph("No points to draw.")
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys), log_y)
    parts = [frame.axes(x_label)]
    for i, (name, points) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(frame.place(x, y) for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        label = f'<tspan fill="{colour}">{escape(name)}</tspan>'
        place = f'x="{frame.width - 10}" y="{20 + 16 * i}" text-anchor="end"'
        parts.append(f"<text {place}>{label}</text>")
    return f'<svg width="{frame.width}" height="{frame.height}" role="img">{"".join(parts)}</svg>'


def _drawable(points: Sequence[tuple[float, float]], log_y: bool) -> list[tuple[float, float]]:
    kept = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log_y)]
    return [(x, math.log10(y)) for x, y in kept] if log_y else kept


class _Frame:
    """Maps data to the pixels of a chart."""

    width, height, left, bottom = 720, 300, 60, 40

    def __init__(self, x0: float, x1: float, y0: float, y1: float, log_y: bool) -> None:
        self.x0, self.x1 = x0, x1 if x1 > x0 else x0 + 1
        self.y0, self.y1 = y0, y1 if y1 > y0 else y0 + 1
        self.log_y = log_y

    def place(self, x: float, y: float) -> str:
        right = (x - self.x0) / (self.x1 - self.x0) * (self.width - self.left - 10)
        up = (y - self.y0) / (self.y1 - self.y0) * (self.height - self.bottom - 10)
        return f"{self.left + right:.1f},{self.height - self.bottom - up:.1f}"

    def axes(self, x_label: str) -> str:
        floor = self.height - self.bottom
        lines = (
            f'<path d="M{self.left},5 V{floor} H{self.width - 5}" fill="none" stroke="#57606a"/>'
        )
        texts = []
        for i in range(5):
            y = self.y0 + (self.y1 - self.y0) * i / 4
            x = self.x0 + (self.x1 - self.x0) * i / 4
            across, up = self.place(x, y).split(",")
            value = 10**y if self.log_y else y
            texts.append(f'<text x="{self.left - 6}" y="{up}" text-anchor="end">{value:.3g}</text>')
            anchor = "end" if i == 4 else "middle"  # the last one would reach beyond the picture
            place = f'x="{across}" y="{floor + 16}" text-anchor="{anchor}"'
            texts.append(f"<text {place}>{x:.5g}</text>")
        middle = (self.left + self.width) / 2
        texts.append(
            f'<text x="{middle}" y="{self.height - 6}" text-anchor="middle">{escape(x_label)}</text>'
        )
        return lines + "".join(texts)
