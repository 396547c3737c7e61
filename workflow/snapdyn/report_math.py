"""Markdown with equations as HTML: LaTeX becomes MathML, which browsers draw without any script or font of ours.

The converter leaves a few commands of NOTATION.md as they are, or writes values that MathML Core does not know.
They take a detour through private characters and come back as elements of their own; what is still not understood
is an error, never a formula with pieces missing.
"""

import re
from functools import cache
from html import escape
from pathlib import Path
from xml.etree import ElementTree

NOTATION = Path(__file__).parent / "NOTATION.md"
_HEADING = re.compile(r"^### `([a-z0-9-]+)`$", re.MULTILINE)
_FORM = dict.fromkeys("([{⟨", "prefix") | dict.fromkeys(")]}⟩", "postfix")
_CLOSING = tuple(text for text, form in _FORM.items() if form == "postfix")
_SCRIPTS = ("msub", "msup", "msubsup")
_LIMITS = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
_WITH_LIMITS = ("∑", "∏", "max", "min", "sup", "inf")
# command -> the operator that it becomes: its text and attributes
_FENCE = {"lspace": "0", "rspace": "0", "stretchy": "false"}
DELIMITERS = {
    r"\lvert": ("|", {"form": "prefix"} | _FENCE),
    r"\rvert": ("|", {"form": "postfix"} | _FENCE),
    r"\lVert": ("‖", {"form": "prefix"} | _FENCE),
    r"\rVert": ("‖", {"form": "postfix"} | _FENCE),
    r"\big\langle": ("⟨", {"minsize": "1.2em", "maxsize": "1.2em"}),
    r"\big\rangle": ("⟩", {"minsize": "1.2em", "maxsize": "1.2em"}),
    r"\Big\langle": ("⟨", {"minsize": "1.8em", "maxsize": "1.8em"}),
    r"\Big\rangle": ("⟩", {"minsize": "1.8em", "maxsize": "1.8em"}),
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
        tree = ElementTree.fromstring(convert(marked, display="block" if display else "inline"))
    except Exception as error:  # the converter has a dozen kinds for a formula that does not parse
        raise EquationError(f"cannot convert {source!r}: {type(error).__name__} {error}") from None
    if left := re.findall(r"\\[A-Za-z]+", "".join(tree.itertext())):
        raise EquationError(f"cannot convert {source!r}: {', '.join(sorted(set(left)))} is not known")
    for element in list(tree.iter()):
        element.tag = element.tag.rpartition("}")[2]
        _mend(element)
    tree.set("alttext", source)
    return ElementTree.tostring(tree, encoding="unicode")


def _mend(element):
    """Bring one element, whose children may still be as the converter left them, to what MathML Core draws well."""
    text = element.text or ""
    if len(text) == 1 and 0 <= (place := ord(text) - _PRIVATE) < len(DELIMITERS):
        element.tag, (element.text, attributes) = "mo", list(DELIMITERS.values())[place]
        element.attrib = dict(attributes)
        text = element.text
    if element.tag == "mo" and text in _FORM:  # under an exponent the form cannot be told from the place
        element.set("form", _FORM[text])
        if "minsize" in element.attrib:
            element.attrib |= {"stretchy": "true", "symmetric": "true"}
    if element.tag == "mo" and text in "/⊤":  # as TeX spaces them
        element.attrib |= {"lspace": "0", "rspace": "0"}
    if text == "~":
        element.tag, element.text = "mo", "∼"
    if element.tag in ("mi", "mo") and len(text) > 1 and text.isalpha():  # the name of a function
        element.tag = "mo"
        element.attrib = {"form": "prefix", "lspace": "0", "rspace": "0.167em"} | element.attrib
    if element.tag in _LIMITS and len(element) and (element[0].text or "") in _WITH_LIMITS:
        element.tag = _LIMITS[element.tag]
        element[0].set("movablelimits", "true")
    # a negative space is no length in MathML Core; what it pulls together here is an operator and its neighbour
    children = list(element)
    for before, after in zip(children, [*children[1:], None], strict=False):
        if before.get("width", "").startswith("negative"):
            if after is not None and after.tag.endswith("mo"):
                after.attrib |= {"lspace": "0", "rspace": "0.1em"}
            element.remove(before)
        elif (
            after is not None
            and after.text == "−"
            and before.tag.endswith(("mo", "mspace"))
            and before.text not in _CLOSING
        ):
            after.attrib |= {"form": "prefix", "lspace": "0", "rspace": "0"}  # a sign, not a difference
        elif after is not None and (after.text or "") in _FORM and (name := _named(before)) is not None:
            name.set("rspace", "0")
    _gather(element)


def _gather(element):
    """Give an exponent of a large delimiter all that it encloses for its base; alone, that would not stretch."""
    for script in list(element):
        base = script[0] if len(script) and script.tag.endswith(_SCRIPTS) else None
        if base is None or "minsize" not in base.attrib or base.text not in _CLOSING:
            continue
        siblings = list(element)
        end, depth = siblings.index(script), 1
        for start in range(end - 1, -1, -1):
            if "minsize" in siblings[start].attrib:
                depth += 1 if siblings[start].text in _CLOSING else -1
            if depth == 0:
                group = ElementTree.Element("mrow")
                group.extend([*siblings[start:end], base])
                for moved in siblings[start:end]:
                    element.remove(moved)
                script.remove(base)
                script.insert(0, group)
                break


def _named(element):
    """The name of a function, possibly under an index; None for anything else."""
    inner = element[0] if len(element) and element.tag.endswith(_SCRIPTS) else element
    text = inner.text or ""
    return inner if len(text) > 1 and text.isalpha() and not inner.tag.endswith("mtext") else None


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
        return f'<span class="scroll" tabindex="0" role="group" aria-label="formula">{formula}</span>'

    def block(self, tokens, place, options, env):
        return scrolling(mathml(tokens[place].content, display=True), "formula", "formula")

    def opened(self, tokens, place, options, env):
        return '<div class="scroll" tabindex="0" role="group" aria-label="table"><table>\n'

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
    return f'<div class="scroll {kind}" tabindex="0" role="group" aria-label="{escape(label)}">{content}</div>\n'


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
