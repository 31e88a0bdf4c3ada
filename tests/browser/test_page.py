"""Pages in a real Chromium: `make test-page` runs these."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

import pytest
from analysis.pages import HOSTILE, delta, everything, tensors
from browser.conftest import Opened, OpenPage

from pipeline.analysis.page.build import build_page
from pipeline.analysis.page.facts import Evidence, Model, Plot
from pipeline.analysis.page.shelf import Entry, build_catalog

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SPY = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>parent.document.title="owned"'
    b'</script><image href="https://127.0.0.1:9/x.png"/><rect width="9" height="9"/></svg>'
)


def catalogue() -> bytes:
    """A catalogue of deltas, some of one base."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    entries = [
        Entry(f"deltas/d{n}.safetensors", "delta", n * 1000, f"{now:%Y-%m-%d} 00:{n:02}", n % 2 == 0,
              f"{n:064}", Model(f"org/base-{n % 3}", f"{n % 3:064}"))
        for n in range(30)
    ]  # fmt: skip
    return build_catalog("az://models", "", entries, [])


def column(page: Opened, number: int) -> list[str]:
    """The texts of a column of the first sortable table, of the rows that are shown."""
    rows = [row for row in page.all("[data-sortable] tbody tr") if row.is_displayed()]
    return [row.find_elements("css selector", "td")[number].text for row in rows]


@pytest.mark.parametrize("content", [build_page(everything()), catalogue()], ids=["page", "catalogue"])
def test_it_renders_without_a_word_on_the_console_and_asks_for_nothing(
    open_page: OpenPage, content: bytes
) -> None:
    page = open_page(content)
    assert page.one("h1").is_displayed() and len(page.all("section")) >= 3
    assert page.problems() == []
    asked = page.requests()
    assert asked[:1] == [page.driver.current_url]
    assert [url for url in asked[1:] if not url.startswith("data:")] == []


def test_rows_are_sorted_by_mouse_and_by_keyboard(open_page: OpenPage) -> None:
    page = open_page(build_page(Evidence(deltas=[delta(tensors=tensors(12))])))
    relative = page.all("[data-sortable] thead th")[4]
    relative.find_element("css selector", "button").click()
    assert relative.get_attribute("aria-sort") == "descending"
    first = column(page, 0)[0]
    assert first == "model.layers.11.self_attn.q_proj.weight"
    name = page.all("[data-sortable] thead th")[0]
    page.run("arguments[0].focus()", name.find_element("css selector", "button"))
    page.press("ENTER")
    assert (name.get_attribute("aria-sort"), relative.get_attribute("aria-sort")) == (
        "ascending",
        "none",
    )
    assert [re.sub(r"\D", "", each) for each in column(page, 0)[::2]] == [str(n) for n in range(12)]
    page.press("SPACE")
    assert name.get_attribute("aria-sort") == "descending"
    assert "layers.11." in column(page, 0)[0]


def test_a_value_that_is_not_known_is_last_in_both_orders(open_page: OpenPage) -> None:
    known = tensors(2)
    unknown = delta(tensors=[*known[:1], type(known[0])("no norm", "BF16", (1,)), *known[1:]])
    page = open_page(build_page(Evidence(deltas=[unknown])))
    button = page.all("[data-sortable] thead button")[4]
    for _ in range(2):
        button.click()
        assert column(page, 0)[-1] == "no norm"


def test_rows_are_filtered_by_words_and_escape_shows_all_again(open_page: OpenPage) -> None:
    page = open_page(build_page(Evidence(deltas=[delta(tensors=tensors(12))])))
    box = page.one("input[type=search]")
    box.send_keys("LAYERS.1 q_proj")
    assert column(page, 0) == [f"model.layers.{n}.self_attn.q_proj.weight" for n in (1, 10, 11)]
    assert page.one("output").text == "3 of 24 rows"
    page.press("ESCAPE")
    assert len(column(page, 0)) == 24 and box.get_attribute("value") == ""


def test_boxes_of_the_lineage_are_reached_by_tab_and_lead_to_their_section(open_page: OpenPage) -> None:
    page = open_page(build_page(everything()))
    for _ in range(30):
        page.press("TAB")
        if page.run("return document.activeElement.closest('.graph') !== null"):
            break
    assert page.run(
        "return getComputedStyle(document.activeElement.querySelector('rect')).strokeWidth"
    ) == ("3.5px")
    page.press("ENTER")
    assert page.driver.current_url.partition("#")[2] in ("exact", "works")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_text(open_page: OpenPage, name: str) -> None:
    who = Model(name, "9" * 64)
    evidence = Evidence(
        deltas=[delta(base=who, post=who, pushed=name)], plots=[Plot(name, "svg+xml", SPY)]
    )
    page = open_page(build_page(evidence, title=name))
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
    assert page.one("h1").text == shown
    assert page.run("return document.title").startswith(shown)
    assert len(page.all("script")) == 1 and not page.all("[onerror], [onload], a[href^=javascript]")
    assert not [url for url in page.requests() if not url.startswith(("file:", "data:"))]
    assert page.problems() == []


def test_the_policy_stops_a_script_that_got_in_anyhow(open_page: OpenPage) -> None:
    content = build_page(everything())
    page = open_page(content.replace(b"</h1>", b"</h1><script>document.title='owned'</script>", 1))
    assert page.run("return document.title") != "owned"
    assert any("Content Security Policy" in each for each in page.problems())


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("content", [build_page(everything()), catalogue()], ids=["page", "catalogue"])
def test_it_fits_wide_and_narrow_screens_in_light_and_dark(
    open_page: OpenPage, content: bytes, width: int
) -> None:
    page = open_page(content)
    grounds = []
    for scheme in ("light", "dark"):
        page.look(width=width, scheme=scheme)
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert len([each for each in page.all(".graph") if each.is_displayed()]) in (0, 1)
        grounds.append(page.run("return getComputedStyle(document.body).backgroundColor"))
        assert contrast(page) >= 4.5
    assert grounds[0] == "rgb(255, 255, 255)" and grounds[1] != grounds[0]


def contrast(page: Opened) -> float:
    """The lowest contrast of soft text with the ground, as WCAG has it."""
    colours = page.run(
        "return [document.body, ...document.querySelectorAll('.lead, small, a, thead th')]"
        ".map((each) => getComputedStyle(each).color)"
        ".concat([getComputedStyle(document.body).backgroundColor])"
    )
    *lights, ground = [luminance(each) for each in colours]
    return min((max(light, ground) + 0.05) / (min(light, ground) + 0.05) for light in lights)


def luminance(colour: str) -> float:
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_on_paper_all_rows_are_there_and_the_tools_are_not(open_page: OpenPage) -> None:
    page = open_page(build_page(Evidence(deltas=[delta(tensors=tensors(60))])))
    page.look(scheme="dark", media="print")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.one(".tools").is_displayed() and not page.one("nav").is_displayed()
    assert page.run("const t = document.querySelector('.tall'); return t.scrollHeight <= t.clientHeight")
    printed = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") >= 3


def test_without_scripts_everything_can_be_read(open_page: OpenPage) -> None:
    content = build_page(Evidence(deltas=[delta()]))
    page = open_page(re.sub(rb"<script>.*?</script>", b"", content, flags=re.S))
    assert not page.one(".tools").is_displayed()
    assert len(column(page, 0)) == 6
