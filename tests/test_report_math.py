"""Equations and Markdown of the report: MathML that says what the LaTeX says, and no HTML that somebody wrote."""

import re
from xml.etree import ElementTree

import pytest
from report_helpers import HOSTILE, Page

from snapdyn import report_math

NOTATION = report_math.NOTATION.read_text(encoding="utf-8")
LABELS = re.findall(r"^### `([a-z0-9-]+)`$", NOTATION, re.MULTILINE)


def tree(latex, display=True):
    return ElementTree.fromstring(report_math.mathml(latex, display))


def shape(element):
    """An element as nested names, text and children."""
    inside = [shape(child) for child in element] or (element.text or "")
    return (element.tag, inside)


def test_every_label_has_its_entry_with_its_formulas():
    entries = report_math.entries()
    assert list(entries) == LABELS
    for label, entry in entries.items():
        body = NOTATION.split(f"### `{label}`\n")[1].split("\n##")[0]
        displayed = re.findall(r"^\$\$.+?\$\$$", body, re.MULTILINE | re.DOTALL)
        inline = re.findall(r"(?<!\$)\$[^$\n]+\$(?!\$)", body)
        assert len(entry["formulas"]) == len(displayed)
        assert entry["html"].count("<math") == len(displayed) + len(inline), label
        assert "$" not in re.sub(r'alttext="[^"]*"', "", entry["html"])
    assert report_math.glossary().count("<tr>") > 20


def test_mathml_is_whole_and_of_the_kind_that_browsers_draw():
    drawn = {"math", "mrow", "mi", "mo", "mn", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd"}
    drawn |= {"msub", "msup", "msubsup", "munder", "mover", "munderover", "mstyle", "mpadded", "mphantom"}
    for formula in [f for entry in report_math.entries().values() for f in entry["formulas"]]:
        parsed = ElementTree.fromstring(formula)
        for element in parsed.iter():
            assert element.tag in drawn, element.tag
            assert not re.search("[\\\\\ue000-\uf8ff]", (element.text or "") + (element.tail or ""))
            assert not str(element.get("width", "")).startswith(("negative", "very", "thin", "medium", "thick"))
        assert parsed.get("alttext") and parsed.get("display") == "block"


def test_a_fraction_a_root_and_an_index_are_what_they_say():
    assert shape(tree(r"\frac{a}{b}")) == (
        "math",
        [("mrow", [("mfrac", [("mrow", [("mi", "a")]), ("mrow", [("mi", "b")])])])],
    )
    (row,) = tree(r"\sqrt{x_1}")
    assert row[0].tag == "msqrt" and [e.tag for e in row.iter()][-3:] == ["msub", "mi", "mn"]


def test_large_delimiters_carry_their_exponent_together():
    (row,) = tree(r"a\big(b\big)^{-1}")
    power = row[1]
    assert power.tag == "msup" and [e.text for e in power[0]] == ["(", "b", ")"]
    assert [e.get("form") for e in power[0] if e.tag == "mo"] == ["prefix", "postfix"]
    (row,) = tree(r"\Big\langle g k\Big\rangle")
    assert (row[0].text, row[-1].text, row[0].get("minsize")) == ("⟨", "⟩", "1.8em")


def test_bars_sums_signs_and_names_are_spaced_as_in_print():
    (row,) = tree(r"\lvert s\rvert^2")
    assert row[0].get("form") == "prefix" and row[-1][0].get("form") == "postfix" and row[-1].tag == "msup"
    (row,) = tree(r"\sum_{i} w_i")
    assert row[0].tag == "munder" and row[0][0].text == "∑"
    (row,) = tree(r"f = -x")
    assert row[2].text == "−" and row[2].get("form") == "prefix"
    (row,) = tree(r"a - b")
    assert row[1].get("form") is None
    (row,) = tree(r"\arg\min_\theta \log p")
    assert row[0].text == "arg" and row[1].tag == "munder" and row[2].get("rspace") != "0"


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\frac", r"x^{"])
def test_what_cannot_be_converted_is_an_error(latex):
    with pytest.raises(report_math.EquationError, match="cannot convert"):
        report_math.mathml(latex)


def test_links_between_equations_stay_on_the_page():
    targets = {
        target for entry in report_math.entries().values() for target in re.findall(r'href="([^"]*)"', entry["html"])
    }
    assert targets and targets <= {f"#eq-{label}" for label in LABELS}


def test_markdown_obeys_no_html_and_follows_no_script():
    page = Page(
        report_math.html(f"{HOSTILE}\n\n[x](javascript:alert(1)) | <b>y</b>\n\n# A\n\n## B", prefix="", shift=2)
    )
    tags = {tag for tag, _ in page.tags}
    assert tags == {"p", "h3", "h4"}


def test_tables_scroll_on_their_own_and_name_their_columns():
    page = Page(report_math.html("| a | b |\n| --- | --- |\n| 1 | 2 |\n"))
    assert all(tag["scope"] == "col" for tag in page.all("th"))
    assert page.all("div")[0]["tabindex"] == "0"
    long = report_math.html("$" + " + ".join("abcdefghijklmnop") + "$")
    assert 'class="scroll"' in long and 'class="scroll"' not in report_math.html("$x + y$")


def test_pictures_become_words():
    assert report_math.without_images("a ![b c](https://example.org/x.png) d") == "a b c d"
