# SPDX-License-Identifier: Apache-2.0
"""Pages hold everything inside, escape what they show, and place points where the data say."""

import base64
import re
from xml.etree import ElementTree

from PIL import Image

from diffnext.utils import html


def points_of(svg):
    root = ElementTree.fromstring(svg)
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in root.iter("polyline")
    ]


def test_a_straight_line_is_drawn_straight():
    svg = html.line_chart({"loss": [(0, 1.0), (5, 2.0), (10, 3.0)]}, x_label="step")
    ((x0, y0), (x1, y1), (x2, y2)) = points_of(svg)[0]
    assert x0 < x1 < x2
    assert y0 > y1 > y2  # pixels count downwards
    assert abs((x0 + x2) / 2 - x1) < 0.1
    assert abs((y0 + y2) / 2 - y1) < 0.1


def test_decades_are_evenly_spaced_on_a_logarithmic_axis():
    svg = html.line_chart({"loss": [(0, 1.0), (1, 0.1), (2, 0.01)]}, x_label="step", log_y=True)
    y = [point[1] for point in points_of(svg)[0]]
    assert abs((y[1] - y[0]) - (y[2] - y[1])) < 0.2


def test_points_that_are_not_finite_are_left_out():
    points = [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]
    assert len(points_of(html.line_chart({"loss": points}, x_label="step"))[0]) == 2
    assert "No points" in html.line_chart({"loss": [(0, float("nan"))]}, x_label="step")


def test_a_figure_carries_its_file(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    figure = html.figure(path, 'a "red" <square>', right=False)
    data = re.search(r"base64,([^\"]+)", figure).group(1)
    assert base64.b64decode(data) == path.read_bytes()
    assert "<square>" not in figure and 'class="wrong"' in figure


def test_a_page_escapes_what_it_shows():
    text = html.page("<b>", html.section("x & y", html.table(["a<"], [["<script>"]])))
    assert "<script>" not in text and "&lt;script&gt;" in text and "x &amp; y" in text
