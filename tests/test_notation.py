"""Every equation has one label, every label in the code exists, and the project's own papers are in order."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

import snapdyn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workflow" / "snapdyn"
NOTATION = PACKAGE / "NOTATION.md"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The four papers of the project, and those of the baselines that it builds anew.
PAPERS = ("2502.17690", "2506.01502", "2506.18604", "2509.17990", "2406.12616", "2106.06345")

REQUIRED = [
    "sde",
    "euler-maruyama",
    "fokker-planck",
    "probability-flow",
    "stationary-residual",
    "affine-drift",
    "plain-design",
    "closed-form",
    "l1-loss",
    "kde-score",
    "convolved-design",
    "weak-form",
    "moments",
    "cross-fitted-moments",
    "j-test",
    "gauge",
    "elimination",
    "matrix-noise",
    "birth-death",
    "timed-weak-form",
    "affine-propagation",
    "normal-scale-bandwidth",
    "likelihood-bandwidth",
    "effective-sample-size",
    "latent-mixture",
    "mixture-energy",
    "coupling",
    "forward-laplacian",
    "cccp",
    "hermite-quintic",
    "weighted-residual",
    "score-matching",
    "denoising-score-matching",
    "full-mixture",
    "hopfield-density",
    "ou-stationary",
    "hopf-density",
    "double-well-density",
    "lorenz",
    "wasserstein",
    "total-variation",
    "gain-interval",
    "affine-units",
    "test-potentials",
    "even-kernel",
    "flow-step",
    "l2-uvp",
    "bw-uvp",
    "step-bias",
]

HEADING = re.compile(r"^### `([a-z0-9-]+)`$", re.MULTILINE)
NAMED = re.compile(r"(?:Equations?:|\(labels?)\s+((?:``[a-z0-9-]+``(?:,\s*|\s+and\s+)?)+)")
USED = re.compile(r"^Used in: (.*)$", re.MULTILINE)
LABEL = re.compile(r"``([a-z0-9-]+)``")


def labels_in_code(source):
    """Labels after ``Equation:`` or ``label`` in docstrings, and in the lists of ``"equations"`` metadata."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            found.update(label for group in NAMED.findall(text) for label in LABEL.findall(group))
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "equations" and isinstance(value, ast.List):
                    found.update(item.value for item in value.elts if isinstance(item, ast.Constant))
    return found


def sections():
    """label -> the text under its heading, up to the next heading."""
    parts = re.split(r"^#{2,3} ", NOTATION.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {m[1]: text for text in parts if (m := re.match(r"`([a-z0-9-]+)`\n", text))}


def test_every_label_stands_once():
    counted = Counter(HEADING.findall(NOTATION.read_text(encoding="utf-8")))
    assert not [label for label, times in counted.items() if times > 1]
    assert not set(REQUIRED) - set(counted)


@pytest.mark.parametrize("label", REQUIRED)
def test_a_label_has_formula_source_and_use(label):
    text = sections()[label]
    assert "$" in text
    assert re.search(r"^Source: \S", text, re.MULTILINE), "no source"
    assert re.search(r"^Used in: `", text, re.MULTILINE), "no use"
    for arxiv in re.findall(r"arXiv:[\d.]+(v\d+)?", text):
        assert arxiv, "a paper is cited without its version: equation numbers move"


def test_labels_named_in_the_code_exist():
    known = set(HEADING.findall(NOTATION.read_text(encoding="utf-8")))
    unknown = {
        module.name: missing
        for module in MODULES
        if (missing := labels_in_code(module.read_text(encoding="utf-8")) - known)
    }
    assert not unknown, f"labels in docstrings without a heading in NOTATION.md: {unknown}"


def test_used_in_is_true():
    """Modules under `Used in:` exist, and a module whose docstrings name a label is listed there."""
    used = {label: set(re.findall(r"`(\w+)`", USED.search(text)[1])) for label, text in sections().items()}
    missing = {label: gone for label, names in used.items() if (gone := names - {m.stem for m in MODULES})}
    assert not missing, f"NOTATION.md names modules that do not exist: {missing}"
    unlisted = [
        f"add `{module.stem}` to {label}"
        for module in MODULES
        for label in sorted(labels_in_code(module.read_text(encoding="utf-8")))
        if label in used and module.stem not in used[label]
    ]
    assert not unlisted, "; ".join(unlisted)


def test_the_reader_of_labels_sees_what_it_should():
    source = '''"""Module (labels ``one``, ``two``)."""
def f():
    """What.

    Equation: ``three``, ``four``
    """
    return {"equations": ["five"], "other": ["six"]}
class C:
    """A ``plain`` word.

    Equation:
        ``seven`` in NOTATION.md.
    """
'''
    assert labels_in_code(source) == {"one", "two", "three", "four", "five", "seven"}


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert not {"cff-version", "message", "title", "authors"} - set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == snapdyn.__version__
    assert citation["authors"] == [{"name": "The snapdyn authors"}]
    assert citation["license"] == "MIT"
    assert "preferred-citation" not in citation  # until there is a paper of ours
    papers = {entry["identifiers"][0]["value"] for entry in citation["references"]}
    assert papers == {f"arXiv:{number}" for number in PAPERS}
    for entry in citation["references"]:
        assert entry["title"] and entry["type"] == "article" and entry["authors"]


def test_changelog_has_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    current = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    assert current.split()[0] == snapdyn.__version__
    assert "### Model" in current and "### Workflow" in current


def test_licence():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License") and "The snapdyn authors" in text


def test_catalogue_entry():
    entry = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))
    assert entry == {"usage": {"software-stack-deployment": {"conda": True, "report": True}}}


PAGES = [ROOT / "README.md", ROOT / "config" / "README.md", NOTATION, *sorted((ROOT / "docs").rglob("*.md"))]


def relative_links(text):
    """Targets of markdown links and images that are neither addresses nor anchors of the same page."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^()\s]+)(?:\s+\"[^\"]*\")?\)", text)
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    targets = relative_links(page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not (page.parent / t.split("#")[0]).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to files that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_equations_name_a_label(page):
    known = set(HEADING.findall(NOTATION.read_text(encoding="utf-8")))
    text = page.read_text(encoding="utf-8")
    inside = r"\]\(#([a-z0-9-]+)\)" if page == NOTATION else r"NOTATION\.md#([a-z0-9-]+)\)"
    assert not set(re.findall(inside, text)) - known


def test_the_reader_of_links_sees_what_it_should():
    text = "[a](b.md) ![c](d/e.png) [f](https://g.h) [i](#j) `[k](l)` [m](n.md#o)\n```\n[p](q)\n```\n$[r](s)$"
    assert relative_links(text) == ["b.md", "d/e.png", "n.md#o"]
