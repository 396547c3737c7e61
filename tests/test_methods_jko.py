"""docs/methods-jko.md names every method that learns energies and every option, with the defaults that the code has."""

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

from snapdyn.method_table import METHODS

TEXT = (Path(__file__).parents[1] / "docs" / "methods-jko.md").read_text(encoding="utf-8")
ENERGIES = {name: method for name, method in METHODS.items() if method.gives == "energy"}
LINEAR = "jkonet-star-linear"  # and the same at the source


def applies(methods, name):
    """Whether the second column of a row of the table of options is about a method."""
    if methods == "potentials alone":
        return ENERGIES[name].fixed.get("terms", ("potential",)) == ("potential",)
    if methods.startswith("all"):
        return not (methods.endswith("but linear") and name.startswith(LINEAR))
    if methods.endswith("but linear") and name.startswith(LINEAR):
        return False
    first, tails = None, []
    for word in re.findall(r"`([^`]+)`|\b(linear)\b", methods.removesuffix("but linear")):
        word = word[0] or f"{LINEAR}*"
        if word.startswith("-"):
            tails.append(first + word)
        else:
            first = first or word.rstrip("*")
            tails.append(word)
    return any(name.startswith(word[:-1]) if word.endswith("*") else name == word for word in tails)


def stated():
    """``(options, methods, defaults)`` of every row; the default of an option is the first quoted word in brackets."""
    section = TEXT.split("## Options")[1].split("## Limits")[0]
    for row in re.findall(r"^\| (`.*) \|$", section, re.M):
        options, methods, meaning = row.split(" | ", 2)
        names = re.findall(r"`(\w+)`", options)
        defaults = re.findall(r"\(`([^`]+)`", meaning)
        yield names, methods, defaults


def defaults_of(method):
    """What the constructor and its bases take if nothing is said."""
    module, name = method.target.split(":")
    found = {}
    for base in reversed(getattr(importlib.import_module(f"snapdyn.{module}"), name).__mro__):
        if "__init__" in vars(base):
            found |= {p.name: p.default for p in inspect.signature(base.__init__).parameters.values()}
    return found | method.fixed


@pytest.mark.parametrize("name", ENERGIES)
def test_every_method_is_described(name):
    short = name.removeprefix("ijkonet").removeprefix("jkonet-star")
    assert f"`{name}`" in TEXT or f"`{short}`" in TEXT


@pytest.mark.parametrize("name", ENERGIES)
def test_every_option_stands_there_with_its_default(name):
    true, told = defaults_of(ENERGIES[name]), {}
    for names, methods, defaults in stated():
        if applies(methods, name):
            told |= dict(zip(names, defaults, strict=False)) if defaults else dict.fromkeys(names)
    assert set(told) >= set(ENERGIES[name].options), sorted(set(ENERGIES[name].options) - set(told))
    for option, text in told.items():
        if option not in ENERGIES[name].options or option in ENERGIES[name].fixed or text is None or option == "step":
            continue
        value = true[option]
        if name.startswith(LINEAR) and option == "validation":
            continue  # it depends on the ridge
        try:
            read = json.loads(text)
        except json.JSONDecodeError:
            read = ["potential"] if text == "[potential]" else text
        assert read == (list(value) if isinstance(value, tuple) else value), (option, text, value)


def test_the_reading_of_the_table():
    assert applies("`jkonet-star*` but linear", "jkonet-star-v") and not applies("`jkonet-star*` but linear", LINEAR)
    assert applies("`ijkonet`, `-v`, `-tv`", "ijkonet-tv") and not applies("`ijkonet`, `-v`", "ijkonet-prox")
    assert applies("linear", LINEAR) and not applies("linear", "jkonet") and applies("all", LINEAR)


def test_links_lead_somewhere():
    notation = (Path(__file__).parents[1] / "workflow" / "snapdyn" / "NOTATION.md").read_text(encoding="utf-8")
    for label in re.findall(r"NOTATION\.md#([\w-]+)", TEXT):
        assert f"### `{label}`" in notation, label
