"""The page on the architecture says what the code is: its layers, and where things lie."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from sources import ROOT
from test_layers import LAYERS

PAGE = ROOT / "docs" / "architecture.md"
DRAWING = ROOT / "docs" / "architecture.svg"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_drawing_shows_the_layers_in_their_order():
    group = ElementTree.parse(DRAWING).find(f"{SVG}g[@id='layers']")
    assert group is not None
    names = [text.text for text in group.iter(f"{SVG}text") if text.get("class") == "name"]
    assert [str(name).split(" · ") for name in names] == LAYERS


def test_the_page_has_a_row_for_each_layer():
    table = PAGE.read_text().partition("| layer |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([a-z, ]+) \|", table, re.MULTILINE)
    assert [row.split(", ") for row in rows] == LAYERS


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_what_a_page_names_is_there(name):
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:pipeline|tests|benchmarks|docs|configs)/[\w/.-]*|\w+\.py)`", text)
    linked = re.findall(r"\]\((?!http)([^)#]+)", text)
    folder = (ROOT / name).parent
    missing = [path for path in named if not (ROOT / path).exists() and not (folder / path).exists()]
    assert not missing + [path for path in linked if not (folder / path).exists()]
