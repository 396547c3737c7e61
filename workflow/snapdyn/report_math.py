"""Markdown with equations as HTML: LaTeX becomes MathML, which browsers draw without any script or font of ours.

The converter leaves a few commands of NOTATION.md as they are, or writes values that MathML Core does not know.
They take a detour through private characters and come back as elements of their own; what is still not understood
is an error, never a formula with pieces missing.
"""

import re
from functools import cache
from html import escape
from pathlib import Path

NOTATION = Path(__file__).parent / "NOTATION.md"
_HEADING = re.compile(r"^### `([a-z0-9-]+)`$", re.MULTILINE)
_LEFT, _RIGHT = 'form="prefix" lspace="0" rspace="0"', 'form="postfix" lspace="0" rspace="0"'
_BIG = 'stretchy="true" minsize="{0}em" maxsize="{0}em"'
# command -> the element that it becomes
DELIMITERS = {
    r"\lvert": f'<mo {_LEFT} stretchy="false">|</mo>',
    r"\rvert": f'<mo {_RIGHT} stretchy="false">|</mo>',
    r"\lVert": f'<mo {_LEFT} stretchy="false">‖</mo>',
    r"\rVert": f'<mo {_RIGHT} stretchy="false">‖</mo>',
    **{rf"\{size}\langle": f"<mo {_LEFT} {_BIG.format(em)}>⟨</mo>" for size, em in (("big", 1.2), ("Big", 1.8))},
    **{rf"\{size}\rangle": f"<mo {_RIGHT} {_BIG.format(em)}>⟩</mo>" for size, em in (("big", 1.2), ("Big", 1.8))},
}
OPERATORS = {r"\arg": r"\operatorname{arg}"}
LONG = 60  # characters of LaTeX, from which a formula within a line may be wider than a telephone
_PRIVATE = 0xE000  # first of the characters that stand for DELIMITERS on their way through the converter


class EquationError(ValueError):
    """A formula holds something that cannot be converted."""


@cache
def mathml(latex, display=False):
    """One formula as a ``<math>`` element with its LaTeX as alternative text.

    Raises:
        EquationError: for a command that the converter does not know.
    """
    from latex2mathml.converter import convert

    source = latex.strip()
    marked = source
    for place, command in enumerate(DELIMITERS):
        marked = re.sub(re.escape(command) + r"(?![A-Za-z])", chr(_PRIVATE + place), marked)
    for command, replacement in OPERATORS.items():
        marked = re.sub(re.escape(command) + r"(?![A-Za-z])", lambda _, by=replacement: by, marked)
    try:
        found = convert(marked, display="block" if display else "inline")
    except Exception as error:  # the converter has a dozen kinds for a formula that does not parse
        raise EquationError(f"cannot convert {source!r}: {type(error).__name__} {error}") from None
    if left := re.findall(r"\\[A-Za-z]+", found):
        raise EquationError(f"cannot convert {source!r}: {', '.join(sorted(set(left)))} is not known")
    for place, element in enumerate(DELIMITERS.values()):
        found = re.sub(f"<(mi|mo|mn)>(?:{chr(_PRIVATE + place)}|&#x0*{_PRIVATE + place:X};)</\\1>", element, found)
    # a negative space is no length in MathML Core; what it pulls together here is an operator and its neighbour
    found = re.sub(r'<mspace width="negative\w+" ?/><mo>', '<mo lspace="0" rspace="0.1em">', found)
    found = re.sub(r'<mspace width="negative\w+" ?/>', "", found)
    found = re.sub(r"<mo>(?:/|&#x0*2F;)</mo>", '<mo lspace="0" rspace="0">/</mo>', found)  # as TeX spaces it
    return found.replace("<math ", f'<math alttext="{escape(source)}" ', 1)


@cache
def _parser(prefix):
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.use(dollarmath_plugin, allow_space=False, double_inline=True)

    def inline(self, tokens, place, options, env):
        formula = mathml(tokens[place].content)
        if len(tokens[place].content) <= LONG:
            return formula
        return f'<span class="scroll" tabindex="0" role="region" aria-label="formula">{formula}</span>'

    def block(self, tokens, place, options, env):
        return scrolling(mathml(tokens[place].content, display=True), "formula", "formula")

    def opened(self, tokens, place, options, env):
        return '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>\n'

    def closed(self, tokens, place, options, env):
        return "</table></div>\n"

    def link(self, tokens, place, options, env):
        target = str(tokens[place].attrGet("href"))
        if target.startswith("#"):
            tokens[place].attrSet("href", f"#{prefix}{target[1:]}")
        return self.renderToken(tokens, place, options, env)

    def header(self, tokens, place, options, env):
        tokens[place].attrSet("scope", "col")
        return self.renderToken(tokens, place, options, env)

    rules = {"math_inline": inline, "math_block": block, "math_inline_double": block, "th_open": header}
    rules |= {"table_open": opened, "table_close": closed, "link_open": link}
    for name, rule in rules.items():
        parser.add_render_rule(name, rule)
    return parser


def scrolling(content, kind, label):
    """``content`` in a box that scrolls sideways on its own, by keyboard too, so that the page never does."""
    return f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>\n'


def html(markdown, *, prefix="eq-", shift=0):
    """Markdown as HTML; raw HTML in it is shown, not obeyed.

    Args:
        prefix: put before the target of links within the page.
        shift: how many levels headings go down.
    """
    parser = _parser(prefix)
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
    return parser.renderer.render(tokens, parser.options, {})


def without_images(markdown):
    """Markdown whose pictures have become their alternative text: a report loads nothing."""
    return re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"\1", markdown)


@cache
def entries(path=NOTATION):
    """The labelled equations: ``label -> {group, formulas, html}``, in the order of the file.

    ``formulas`` are the displayed ones alone, ``html`` is the whole entry with its assumptions and source.
    """
    text = Path(path).read_text(encoding="utf-8")
    group, found = "", {}
    for part in re.split(r"^(?=##+ )", text, flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        if label := _HEADING.match(head):
            formulas = [mathml(formula, display=True) for formula in re.findall(r"^\$\$(.+?)\$\$$", body, re.M | re.S)]
            said = re.sub(r"^(Source|Used in|Check):", r"\n*\1:*", body, flags=re.MULTILINE)
            found[label[1]] = {"group": group, "formulas": formulas, "html": html(said)}
        elif head.startswith("## "):
            group = head.removeprefix("## ")
    return found


def glossary(path=NOTATION):
    """The table of names in NOTATION.md, as HTML."""
    text = Path(path).read_text(encoding="utf-8")
    section = re.search(r"^## Names$(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    return html(section[1]) if section else ""
