"""Drifts that are affine in their unknowns: f(x) = v(x) + sum_k theta_k g_k(x).

One description serves every estimator: the values of ``v`` and ``g_k`` at points, and their divergences.
"""

import ast
import difflib
import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class AffineDrift:
    r"""A drift :math:`f = v + \sum_k \theta_k g_k` with ``count`` unknown coefficients.

    Attributes:
        names: name of each coefficient.
        units: unit of each coefficient, in terms of the axes and the time unit.
        fields: states ``(n, dim)`` to the values g_k(x) ``(n, count, dim)``.
        divergences: states to div g_k ``(n, count)``.
        known: states to v(x) ``(n, dim)``.
        known_divergence: states to div v ``(n,)``.
        fixes_clock: whether the known part sets the unit of time of a stationary cloud.
        phases: pairs of axes that turn as one phase, for test functions that follow it.
    Equation: ``affine-drift``
    """

    dim: int
    names: tuple
    units: tuple
    fields: Callable[[Tensor], Tensor]
    divergences: Callable[[Tensor], Tensor]
    known: Callable[[Tensor], Tensor]
    known_divergence: Callable[[Tensor], Tensor]
    fixes_clock: bool = False
    phases: tuple = ()

    @property
    def count(self):
        return len(self.names)

    @property
    def homogeneous(self):
        """Whether nothing is known, so that drift and diffusivity may be scaled together."""
        return self.known is torch.zeros_like

    def __call__(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """f(x) ``(n, dim)`` for one vector of coefficients ``(count,)``."""
        return self.known(x) + torch.einsum("k,nkd->nd", coefficients, self.fields(x))

    def divergence(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """div f(x) ``(n,)``."""
        return self.known_divergence(x) + self.divergences(x) @ coefficients


def exponents(dim, degree):
    """Exponents of all monomials in ``dim`` variables up to ``degree``, by degree: ``(count, dim)``."""
    chosen = (c for size in range(degree + 1) for c in itertools.combinations_with_replacement(range(dim), size))
    return [tuple(c.count(i) for i in range(dim)) for c in chosen]


def monomial_name(powers, axes):
    """``(2, 0, 1)`` on ``x, y, z`` as ``x^2 z``; the constant is ``1``."""
    factors = (axis if e == 1 else f"{axis}^{e}" for axis, e in zip(axes, powers, strict=True) if e)
    return " ".join(factors) or "1"


def monomials(x: Tensor, powers: Tensor) -> Tensor:
    """Values ``(n, count)`` of the monomials with exponents ``(count, dim)`` at ``x (n, dim)``."""
    return (x[:, None, :] ** powers).prod(-1)


def polynomial(dim, degree, *, axes, time_unit=None):
    """Every monomial up to ``degree`` in every equation, nothing known.

    Coefficients are named ``<axis>: <monomial>``: ``y: x z`` multiplies x z in dy/dt.
    """
    powers = exponents(dim, degree)
    table = torch.tensor(powers, dtype=torch.float64)
    labels = [monomial_name(p, axes) for p in powers]
    names = tuple(f"{axis}: {label}" for axis in axes for label in labels)
    clock = time_unit or "time unit"
    units = tuple(
        f"[{axis}]/{clock}" if label == "1" else f"[{axis}]/[{label}]/{clock}" for axis in axes for label in labels
    )
    identity = torch.eye(dim, dtype=torch.float64)

    def fields(x):
        values = monomials(x, table.to(x))
        return torch.einsum("nu,jd->njud", values, identity.to(x)).flatten(1, 2)

    def divergences(x):
        columns = []
        for j in range(dim):
            lowered = table.to(x).clone()
            lowered[:, j] = (lowered[:, j] - 1).clamp_min(0)
            columns.append(table.to(x)[:, j] * monomials(x, lowered))
        return torch.cat(columns, 1)

    return AffineDrift(dim, names, units, fields, divergences, torch.zeros_like, lambda x: torch.zeros_like(x[:, 0]))


def affine(dim, *, axes, time_unit=None):
    """f(x) = A x + b with all of A and b unknown: the polynomial library of degree 1."""
    return polynomial(dim, 1, axes=axes, time_unit=time_unit)


def polynomial_fields(drift, centre, scale, highest=4, *, states=None):
    """The fields as polynomials of z = (x - centre) / scale, found from their values; None if they are not.

    Whatever a drift is written as, what matters is whether a polynomial gives the same values: fitted to half of
    some random points, it must do so at the other half and at ``states``, which see what lies far out or is narrow.

    Args:
        centre, scale: ``(dim,)`` tensors.
        highest: degree at which the search ends.
        states: where the polynomial will be used ``(n, dim)``, or a part of them.
    Returns:
        the exponents, and the coefficients ``(count + 1, dim, exponents)``, the known part last.
    """
    rng = np.random.default_rng(0)
    for degree in range(highest + 1):
        powers = exponents(drift.dim, degree)
        size = 2 * len(powers) + 10
        x = centre + scale * torch.from_numpy(rng.standard_normal((2 * size, drift.dim))).to(centre)
        x = x if states is None else torch.cat([x, states])
        values = torch.cat([drift.fields(x), drift.known(x)[:, None]], 1).flatten(1)
        table = monomials((x - centre) / scale, torch.tensor(powers).to(x)).cpu().numpy()
        values = values.cpu().numpy()
        if not np.isfinite(values).all():
            return None
        coefficients = np.linalg.lstsq(table[:size], values[:size], rcond=None)[0]
        largest = np.abs(values).max(0)
        if (np.abs(table @ coefficients - values).max(0) <= 1e-10 * largest).all():
            return powers, coefficients.T.reshape(drift.count + 1, drift.dim, len(powers))
    return None


_FUNCTIONS = {name: getattr(torch, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "abs")}
_OPERATORS = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
    ast.Pow: torch.pow,
    ast.USub: torch.neg,
    ast.UAdd: lambda value: value,
}


def expression(text, axes):
    """Turn an arithmetic expression in the axes, such as ``-x*y + sin(z)``, into a function of a state.

    Numbers, the axes by name or as ``x0, x1, ..``, ``+ - * / **`` (or ``^``) and sin, cos, tan, exp, log, sqrt,
    tanh, abs; nothing else is understood, and nothing is ever evaluated as Python.
    """

    places = {f"x{i}": i for i in range(len(axes))} | {axis: i for i, axis in enumerate(axes)}

    def refuse(what):
        numbered = f" (as x0 .. x{len(axes) - 1})" if len(axes) > 1 else " (as x0)"
        raise ValueError(
            f"cannot read {what} in the expression {text!r}: use numbers, the axes {list(axes)}{numbered}, "
            f"+ - * / ** and {sorted(_FUNCTIONS)}"
        )

    def build(node):
        match node:
            case ast.Constant(value=int() | float() as number) if type(number) is not bool and math.isfinite(number):
                return lambda x: torch.as_tensor(float(number), dtype=x.dtype, device=x.device)
            case ast.Name(id=name) if name in places:
                index = places[name]
                return lambda x: x[index]
            case ast.Name(id=name):
                near = difflib.get_close_matches(name, axes, 1)
                refuse(f"the name {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                apply, value = _OPERATORS[type(op)], build(operand)
                return lambda x: apply(value(x))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                apply, one, two = _OPERATORS[type(op)], build(left), build(right)
                return lambda x: apply(one(x), two(x))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                apply, value = _FUNCTIONS[name], build(argument)
                return lambda x: apply(value(x))
        refuse(ast.unparse(node))

    try:
        return build(ast.parse(str(text).replace("^", "**"), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, OverflowError):
        refuse("the syntax")


def _vector_field(texts, axes):
    parts = [expression(text, axes) for text in texts]
    return lambda x: torch.stack([part(x).expand(()) for part in parts])


def from_expressions(terms, known, *, axes, time_unit=None):
    """A drift written by hand.

    Args:
        terms: coefficient name -> one expression per axis, the field g_k; empty if nothing is unknown.
        known: one expression per axis, the field v; ``None`` for none.
    """
    dim = len(axes)
    faults = [
        f"{name!r} has {len(texts)} expressions, expected one for each of the axes {list(axes)}"
        for name, texts in [*terms.items(), *([("known", known)] if known else [])]
        if len(texts) != dim
    ]
    if faults:
        raise ValueError("drift: " + "; ".join(faults))
    fields = [_vector_field(texts, axes) for texts in terms.values()]
    rest = _vector_field(known, axes) if known else None

    def divergence(field):
        return lambda x: torch.func.jacrev(field)(x).trace()

    def stacked(functions, *shape):
        if not functions:
            return lambda x: x.new_zeros(len(x), 0, *shape)
        return torch.func.vmap(lambda x: torch.stack([function(x) for function in functions]))

    clock = time_unit or "time unit"
    return AffineDrift(
        dim,
        tuple(terms),
        tuple(f"1/{clock} (times the field's own unit)" for _ in terms),
        stacked(fields, dim),
        stacked([divergence(field) for field in fields]),
        torch.func.vmap(rest) if rest else torch.zeros_like,
        torch.func.vmap(divergence(rest)) if rest else lambda x: torch.zeros_like(x[:, 0]),
        fixes_clock=bool(known),
    )


@dataclass(frozen=True)
class Growth:
    r"""A net birth rate :math:`g = g_0 + \sum_k \gamma_k b_k` with unknown coefficients.

    Attributes:
        names: of the coefficients, in 1 / time times the term's own unit.
        terms: states ``(n, dim)`` to the values b_k(x) ``(n, count)``.
        known: states to g_0(x) ``(n,)``.
    Equation: ``birth-death``
    """

    names: tuple
    terms: Callable[[Tensor], Tensor]
    known: Callable[[Tensor], Tensor]

    @property
    def count(self):
        return len(self.names)

    @classmethod
    def from_expressions(cls, terms, known=None, *, axes):
        """Rates written by hand: name -> expression, and the expression of the known rate."""
        parts = [expression(text, axes) for text in terms.values()]
        rest = expression(known, axes) if known else None

        def values(x):
            return torch.stack([part(x.T).expand(len(x)) for part in parts], 1) if parts else x.new_zeros(len(x), 0)

        def offset(x):
            return rest(x.T).expand(len(x)) if rest else torch.zeros_like(x[:, 0])

        return cls(tuple(terms), values, offset)


def subset(drift, names):
    """The drift with only the terms ``names``, in their order in the library; the known part stays.

    Raises:
        ValueError: names that the library does not have, with the nearest ones.
    """
    hints = []
    for name in (name for name in names if name not in drift.names):
        near = difflib.get_close_matches(name, drift.names, 1)
        hints.append(repr(name) + (f" (did you mean {near[0]!r}?)" if near else ""))
    if hints:
        raise ValueError(f"drift.only: the library has no terms {', '.join(hints)}; it has {list(drift.names)}")
    places = torch.tensor([k for k, name in enumerate(drift.names) if name in names], dtype=torch.long)
    return replace(
        drift,
        names=tuple(drift.names[k] for k in places),
        units=tuple(drift.units[k] for k in places),
        fields=lambda x: drift.fields(x)[:, places.to(x.device)],
        divergences=lambda x: drift.divergences(x)[:, places.to(x.device)],
    )


def build(spec, *, axes, time_unit=None):
    """The drift that a config entry describes; ``only`` keeps the terms with these names.

    See :func:`_library` for what there is.
    """
    drift = _library(spec, axes=axes, time_unit=time_unit)
    return subset(drift, spec["only"]) if spec.get("only") else drift


@dataclass(frozen=True)
class CompleteDrift:
    """A drift without unknowns.

    Attributes:
        drift: states ``(n, dim)`` to f(x) ``(n, dim)``, in length / time.
        divergence: states to div f ``(n,)``, in 1 / time.
    """

    drift: Callable[[Tensor], Tensor]
    divergence: Callable[[Tensor], Tensor]


def complete(spec, *, axes, time_unit=None, diffusivity=None):
    """The :class:`CompleteDrift` of a config entry, or None if numbers in it are unknown.

    A registered system is completed by its own parameters; any other library must have no terms, only a known part.

    Args:
        diffusivity: D, a number, on which the parameters of some systems depend.
    """
    from snapdyn import systems

    if spec["library"] in systems.SYSTEMS and not spec.get("only"):
        system = _system(spec, axes, diffusivity)
        return CompleteDrift(lambda x: system.drift(0.0, x), lambda x: system.divergence(0.0, x))
    if spec["library"] == "custom" and spec.get("terms"):
        return None
    drift = build(spec, axes=axes, time_unit=time_unit)
    return None if drift.count else CompleteDrift(drift.known, drift.known_divergence)


def _system(spec, axes, diffusivity=None):
    """The registered system of a config entry."""
    from snapdyn import systems

    library = spec["library"]
    noise = {"diffusivity": diffusivity} if isinstance(diffusivity, int | float) else {}
    system = systems.build(library, **{"dim": len(axes), **noise, **spec.get("parameters", {})})
    if system.dim != len(axes):
        raise ValueError(f"drift library {library!r} has {system.dim} axes, the data have {len(axes)}: {list(axes)}")
    return system


def _library(spec, *, axes, time_unit):
    """The whole library of a config entry.

    Args:
        spec: ``{library: polynomial, degree: 2}``, ``{library: affine}``, ``{library: custom, terms: {...},
            known: [...]}``, ``{library: <a registered system>}`` or ``{library: package.module:function}``, where
            the function takes ``axes`` and ``time_unit`` and returns an :class:`AffineDrift`.
    Raises:
        ValueError: unknown library (with the nearest name), or one that does not fit the number of axes.
    """
    from snapdyn import systems

    library = spec["library"]
    if library == "polynomial":
        return polynomial(len(axes), spec.get("degree", 2), axes=axes, time_unit=time_unit)
    if library == "affine":
        return affine(len(axes), axes=axes, time_unit=time_unit)
    if library == "custom":
        return from_expressions(spec.get("terms") or {}, spec.get("known"), axes=axes, time_unit=time_unit)
    if library in systems.SYSTEMS:
        return _system(spec, axes).terms
    if ":" in library:
        module, _, name = library.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"cannot import the drift library {library!r}: {error}. Is its folder on PYTHONPATH?"
            ) from None
        return function(axes=axes, time_unit=time_unit)
    names = ["polynomial", "affine", "custom", *systems.SYSTEMS]
    near = difflib.get_close_matches(library, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown drift library {library!r}{hint} (known: {names}, or package.module:function)")
