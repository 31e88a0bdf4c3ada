"""The page: what stands in it, and that nothing in it runs, loads or leads elsewhere."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace

import pytest
from analysis.pages import HOSTILE, delta, evaluation, everything, release, see, tensor, tensors, verdict

from pipeline.analysis.page.build import MAX_TENSORS, build_page
from pipeline.analysis.page.facts import Check, Evidence, Model, Plot, Run, Signature, Source, Step

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def test_a_page_says_what_works_what_changed_and_what_was_judged() -> None:
    text = see(build_page(everything())).text
    assert "base-v2 + ∆ post-v1" in text
    assert "2 of 2 conditions met" in text and "✓ passed" in text
    assert "65.0 ± 2.0" in text
    assert "75.0 % of 384 elements" in text
    assert "org/base-v1" in text and "org/post-v1" in text


def test_a_gate_that_refuses_shows_the_condition_with_both_values() -> None:
    text = see(build_page(Evidence(verdicts=[verdict(passed=False)]))).text
    assert "Refused" in text and "✗ refused" in text and "✗ not met" in text
    assert re.search(r"gap_recovered.mean >= 0.7 ?0.65 ?≥ 0.7", text)


def test_without_evidence_the_page_claims_nothing() -> None:
    text = see(build_page(Evidence())).text
    for claim in ("Not judged", "Not measured", "Not verified", "No signature", "Nothing was measured"):
        assert claim in text
    assert "✓" not in text


def test_a_signature_that_nobody_checked_is_not_said_to_hold() -> None:
    unchecked = delta(signature=Signature("k" * 64, is_checked=False))
    text = see(build_page(Evidence(deltas=[unchecked]))).text
    assert "there, not checked" in text and "holds" not in text
    checked = delta(signature=Signature("k" * 64, is_checked=True))
    assert "✓ holds" in see(build_page(Evidence(deltas=[checked]))).text


def test_what_verify_found_is_shown_as_exact() -> None:
    found = Check(delta().model, "delta", 6, 100, "org/base-v1", "org/post-v1", True, "k" * 64)
    text = see(build_page(Evidence(deltas=[delta()], checks=[found]))).text
    assert "✓ bit for bit" in text and "✓ holds" in text


def named(name: str) -> Evidence:
    """Evidence of every kind, with that name for everything that has one."""
    who = Model(name, name, name)
    judged = evaluation(model={f"task:{name}": 0.5, name: 0.5}, base={f"task:{name}": 0.1})
    condition = replace(verdict().conditions[0], text=name, subject=name, comparison=name)
    made = delta(
        base=who, post=who, pushed=name, carried=[name], tool=name, tensors=[tensor(name, 0.1)] * 3
    )
    return Evidence(
        deltas=[made],
        releases=[
            release(case=name, config_rows=[(name,) * 5], signature=Signature(name, is_checked=False))
        ],
        checks=[Check(who, name, 1, 1, name, name, True, name)],
        evaluations=[replace(judged, data=[replace(judged.data[0], name=name)])],
        verdicts=[replace(verdict(), model=who, conditions=[condition])],
        published=[Model(f"x/{name}", "9" * 64)],
        runs=[Run(name, name, 1.0, True, [Step(name, name, name, 1.0, name)])],
        plots=[Plot(name, "svg+xml", SVG)],
        sources=[Source(name, name, name)],
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_wherever_it_stands(name: str) -> None:
    plain, page = (see(build_page(named(each), title=each)) for each in ("plain", name))
    shapes = [
        [(tag, sorted(attributes)) for tag, attributes in each.elements if tag != "wbr"]
        for each in (plain, page)
    ]
    assert shapes[0] == shapes[1]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert len(page.all("script")) == 1
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
    assert page.text.count(shown) > 10
    assert not {"\u202e", "\u2066"} & {*page.text}


def test_only_plain_https_becomes_a_link_and_tells_nobody_where_it_was() -> None:
    def links(pushed: str) -> list[dict[str, str | None]]:
        page = see(build_page(Evidence(deltas=[delta(pushed=pushed)])))
        return [each for each in page.all("a") if not str(each.get("href")).startswith("#")]

    (link,) = links("https://huggingface.co/org/name/commit/0a1b")
    assert link["rel"] == "noopener noreferrer"
    others = ("http://a.b/c", "javascript:alert(1)", "https://a b/", "data:text/html,x", 'https://a/"x')
    assert [links(other) for other in others] == [[]] * len(others)


def test_the_policy_allows_the_page_s_own_style_and_script_and_nothing_else() -> None:
    page = build_page(everything()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    allowed = policy.replace("&#39;", "'")
    assert allowed.startswith("default-src 'none';")
    assert not re.search("unsafe|http|\\*", allowed)
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
        assert tag == "style" or len(content) < 10_000
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page) and " style=" not in page


def test_a_plot_is_a_picture_that_can_run_nothing() -> None:
    page = see(build_page(Evidence(plots=[Plot("norms", "svg+xml", SVG)])))
    (image,) = page.all("img")
    kind, _, data = str(image["src"]).partition(",")
    assert (kind, base64.b64decode(data)) == ("data:image/svg+xml;base64", SVG)
    assert image["alt"] == "Plot: norms"


def test_secrets_in_reports_are_not_shown() -> None:
    sas = "https://a.blob.core.windows.net/c/d?sv=1&sig=" + "A" * 43 + "%3D"
    token = "hf_" + "x" * 34
    page = build_page(Evidence(deltas=[delta(base=Model(sas), post=Model(token))])).decode()
    assert "A" * 43 not in page and token not in page and "[secret]" in page


def test_figures_that_are_no_numbers_are_dashes() -> None:
    odd = evaluation(model={"task:a": math.nan, "kl.p99": math.inf, "task:b": 7.0}, base={"task:a": 0.5})
    text = see(build_page(Evidence(evaluations=[odd]))).text
    assert re.search(r"task:?|a ?50 ?50\.0 ± 2\.0 ?–", text)
    assert not re.search(r"\b(nan|inf)\b", text)


def test_the_largest_tables_are_cut_to_what_changed_most_and_say_so() -> None:
    many = [tensor(f"t{n}", n / 1e6) for n in range(MAX_TENSORS + 50)]
    page = see(build_page(Evidence(deltas=[delta(tensors=many)])))
    assert f"The {MAX_TENSORS} tensors that changed most, of {len(many):,}." in page.text
    assert f"t{len(many) - 1}BF16" in page.text and "t49BF16" not in page.text


def test_a_model_of_four_hundred_tensors_makes_less_than_three_megabytes() -> None:
    assert len(build_page(Evidence(deltas=[delta(tensors=tensors(200))]))) < 3_000_000


def test_plots_that_would_make_the_page_too_large_are_left_out_and_counted() -> None:
    page = build_page(Evidence(plots=[Plot(f"p{n}", "png", bytes(1_000_000)) for n in range(3)]))
    assert len(page) < 3_000_000
    assert "2 more plots would make the page too large" in see(page).text


def test_tables_and_drawings_say_what_they_are() -> None:
    page = see(build_page(everything()))
    assert page.all("html")[0]["lang"] == "en"
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    ids = [str(each["id"]) for _, each in page.elements if each.get("id")]
    assert len(ids) == len({*ids})
    graphs = [each for each in page.all("svg") if each.get("class") == "graph"]
    assert len(graphs) == 2
    assert all({*str(graph["aria-labelledby"]).split()} <= {*ids} for graph in graphs)
    assert {str(link["href"]).removeprefix("#") for link in page.all("a")} <= {*ids}
