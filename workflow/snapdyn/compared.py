"""Experiments of kind ``comparison``: whose scores they set against whose, and what is wrong with asking so.

Imports neither torch nor pandas: the graph is built with it.
"""

import difflib
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Side:
    """One method on one data set of an experiment: where scores come from."""

    experiment: str
    dataset: str
    method: str


@dataclass(frozen=True)
class Pair:
    """Scores of ``one`` to be set against those of ``other``; the result goes by the names of ``one``."""

    one: Side
    other: Side


def pairs(experiments, name, *, absent=()):
    """The pairs of the comparison ``name``, as plain values.

    Args:
        experiments: of the paper, by name.
        absent: data sets that this run cannot make; their pairs are left out.
    Returns:
        a list of :class:`Pair` as dicts.
    """
    found = (_pair(experiments, *sides) for sides in _asked(experiments[name]))
    return [asdict(pair) for pair in found if not {pair.one.dataset, pair.other.dataset} & set(absent)]


def faults(where, name, experiments, datasets):
    """What is wrong with the comparison ``name``, as sentences."""
    spec = experiments[name]
    compare, chosen = spec.get("compare"), spec.get("methods") or {}
    if not isinstance(compare, dict):
        yield f"{where}.compare: an experiment of kind comparison needs it, for example compare: {{metrics: [l2_uvp]}}"
        return
    if not chosen:
        yield f"{where}.methods: say whose scores to compare, for example methods: {{ijkonet-v: {{}}}}"
    for method in (method for method, options in chosen.items() if options):
        yield f"{where}.methods.{method}: a comparison fits nothing, so its methods take no options"
    yield from _strangers(f"{where}.compare.methods", "method of this experiment", compare.get("methods") or {}, chosen)
    # any data set, not only the experiment's: an overlay may ask for fewer of them
    rivals = compare.get("datasets") or {}
    yield from _strangers(f"{where}.compare.datasets", "data set", [*rivals, *rivals.values()], datasets)
    for dataset, method in dict.fromkeys(side for sides in _asked(spec) for side in sides):
        if dataset not in datasets:
            continue  # said already
        fitted = _fitted(experiments)
        found = fitted.get((dataset, method), [])
        if not found:
            there = {name for other, name in fitted if other == dataset}
            said = _nearest(method, there) if there else "; leave that data set out here, or have it fitted"
            yield f"{where}: no experiment of this run fits {method!r} on data set {dataset!r}{said}"
        elif len(found) > 1:
            yield f"{where}: {method!r} on data set {dataset!r} is fitted by several experiments: {found}"
        courses = datasets[dataset].get("potentials") or []
        yield from _strangers(f"{where}.compare.courses", f"course of {dataset}", compare.get("courses") or (), courses)
    for one, other in _asked(spec):
        if one == other:
            yield f"{where}.compare: {one[1]} on {one[0]} would be compared with itself; name a rival of either"


def _asked(spec):
    """``((dataset, method), (dataset, method))`` of every pair, the experiment's own first."""
    compare = spec["compare"]
    datasets, methods = (compare.get(key) or {} for key in ("datasets", "methods"))
    for dataset in spec.get("datasets") or ():
        for method in spec.get("methods") or {}:
            yield (dataset, method), (datasets.get(dataset, dataset), methods.get(method, method))


def _fitted(experiments):
    """``(dataset, method)`` -> the experiments that fit it."""
    found = {}
    for name, spec in experiments.items():
        for dataset in spec.get("datasets") or () if spec.get("kind") != "comparison" else ():
            for method in spec.get("methods") or {}:
                found.setdefault((dataset, method), []).append(name)
    return found


def _pair(experiments, one, other):
    fitted = _fitted(experiments)
    return Pair(*(Side(fitted[side][0], *side) for side in (one, other)))


def _strangers(where, what, names, known):
    for name in names:
        if name not in known:
            yield f"{where}: unknown {what} {name!r}{_nearest(name, known)}"


def _nearest(name, known):
    near = difflib.get_close_matches(str(name), sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f" (known: {sorted(known)})"
