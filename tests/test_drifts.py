"""Affine drifts: values and divergences of every library, and expressions that are arithmetic or nothing."""

import itertools
import signal

import numpy as np
import pytest
import torch

from snapdyn import drifts, systems

AXES = ("x", "y", "z")


def points(dim, n=25, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, dim)))


def traces(field, x):
    """Divergence at each point of a field ``(n, dim) -> (n, dim)``, by automatic differentiation."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: field(p[None])[0]))(x)
    return jacobian.diagonal(dim1=1, dim2=2).sum(1)


def brute_force(x, axes, degree):
    """name -> field values ``(n, dim)`` of every monomial in every equation, by loops."""
    fields = {}
    for j, axis in enumerate(axes):
        for size in range(degree + 1):
            for chosen in itertools.combinations_with_replacement(range(len(axes)), size):
                value = np.ones(len(x))
                for i in chosen:
                    value = value * x[:, i]
                factors = []
                for i in sorted(set(chosen)):
                    e = chosen.count(i)
                    factors.append(axes[i] if e == 1 else f"{axes[i]}^{e}")
                field = np.zeros_like(x)
                field[:, j] = value
                fields[f"{axis}: {' '.join(factors) or '1'}"] = field
    return fields


@pytest.mark.parametrize(("dim", "degree"), [(1, 4), (2, 3), (3, 2), (3, 0), (4, 1)])
def test_polynomial_fields_are_all_the_monomials_in_all_the_equations(dim, degree):
    axes = tuple("abcd"[:dim])
    drift = drifts.polynomial(dim, degree, axes=axes)
    x = points(dim)
    expected = brute_force(x.numpy(), axes, degree)
    assert sorted(drift.names) == sorted(expected) and len(set(drift.names)) == drift.count
    found = drift.fields(x).numpy()
    assert found.shape == (25, drift.count, dim)
    for k, name in enumerate(drift.names):
        np.testing.assert_allclose(found[:, k], expected[name], rtol=1e-12, atol=1e-12)
    assert not drift.known(x).any() and not drift.known_divergence(x).any() and not drift.fixes_clock


@pytest.mark.parametrize(("dim", "degree"), [(1, 4), (2, 3), (3, 2)])
def test_polynomial_divergences_are_traces(dim, degree):
    drift = drifts.polynomial(dim, degree, axes=tuple("abc"[:dim]))
    x = points(dim, 8)
    for k in range(drift.count):
        found = drift.divergences(x)[:, k]
        torch.testing.assert_close(found, traces(lambda p, k=k: drift.fields(p)[:, k], x), rtol=1e-11, atol=1e-11)


def test_a_monomial_is_one_at_the_origin_only_if_constant():
    drift = drifts.polynomial(2, 3, axes=("x", "y"))
    values, slopes = drift.fields(torch.zeros(1, 2).double()), drift.divergences(torch.zeros(1, 2).double())
    lit = [name for name, value in zip(drift.names, values[0].abs().sum(1), strict=True) if value]
    assert lit == ["x: 1", "y: 1"]
    assert [n for n, v in zip(drift.names, slopes[0], strict=True) if v] == ["x: x", "y: y"]


def test_the_whole_drift_is_the_known_part_plus_the_fields():
    drift = systems.build("lorenz", diffusivity=1.0).terms
    x, theta = points(3), torch.tensor([2.0, -1.0, 0.5]).double()
    expected = drift.known(x) + sum(c * drift.fields(x)[:, k] for k, c in enumerate(theta))
    torch.testing.assert_close(drift(theta, x), expected)
    torch.testing.assert_close(drift.divergence(theta, x), traces(lambda p: drift(theta, p), x))


def test_names_and_units_say_what_each_coefficient_multiplies():
    drift = drifts.polynomial(2, 2, axes=("a", "b"), time_unit="day")
    units = dict(zip(drift.names, drift.units, strict=True))
    assert list(units) == [f"{j}: {m}" for j in "ab" for m in ("1", "a", "b", "a^2", "a b", "b^2")]
    assert units["a: 1"] == "[a]/day" and units["b: a b"] == "[b]/[a b]/day"
    assert drifts.affine(2, axes=("a", "b")).units[0] == "[a]/time unit"
    assert drifts.affine(2, axes=("a", "b")).names == drifts.polynomial(2, 1, axes=("a", "b")).names
    assert drifts.monomial_name((2, 0, 1), AXES) == "x^2 z"
    assert drifts.exponents(2, 2) == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]


def test_fifty_axes_take_no_longer_than_their_monomials():
    """Walking all of {0, 1}^50 would never end; the alarm ends it here."""

    def too_long(*_):
        raise TimeoutError("the exponents of a linear drift in 50 variables took more than 5 s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        assert len(drifts.exponents(50, 1)) == 51
        assert len(drifts.exponents(20, 2)) == 231
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_linear_drift_reads_its_coefficients_equation_by_equation():
    x = points(2)
    matrix, offset = np.array([[-1.0, 0.5], [0.2, -2.0]]), np.array([0.3, -0.7])
    theta = torch.from_numpy(np.concatenate([np.r_[offset[i], matrix[i]] for i in range(2)]))
    found = drifts.affine(2, axes=("x", "y"))(theta, x).numpy()
    np.testing.assert_allclose(found, x.numpy() @ matrix.T + offset, rtol=1e-13)


CUBIC = {"growth": ["x", "y"], "saturation": ["-x*(x^2 + y^2)", "-y*(x^2 + y^2)"], "turn": ["y", "-x"]}
POLYNOMIALS = {
    "monomials": (drifts.polynomial(2, 3, axes=("x", "y")), 3),
    "written by hand": (drifts.from_expressions(CUBIC, ["x*y - 3", "(x - y)^4"], axes=("x", "y")), 4),
    "in other words": (drifts.from_expressions({"a": ["(x^4 - 1)/(x^2 + 1)", "0"]}, ["y", "0"], axes=("x", "y")), 2),
    "constants": (drifts.from_expressions({"a": ["1", "0"], "b": ["0", "-2"]}, None, axes=("x", "y")), 0),
    "nothing": (drifts.from_expressions({"a": ["0", "0"]}, None, axes=("x", "y")), 0),
    "hopf": (systems.build("hopf", diffusivity=1.0).terms, 3),
    "lorenz": (systems.build("lorenz", diffusivity=1.0).terms, 2),
    "ornstein-uhlenbeck": (systems.build("ornstein-uhlenbeck", dim=3, diffusivity=1.0).terms, 1),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomial_drifts_are_found_whatever_way_they_are_written(name):
    drift, degree = POLYNOMIALS[name]
    rng = np.random.default_rng(0)
    centre, scale = (torch.from_numpy(rng.uniform(*ends, drift.dim)) for ends in ((-2, 2), (0.5, 3)))
    powers, coefficients = drifts.polynomial_fields(drift, centre, scale)
    assert powers == drifts.exponents(drift.dim, degree)
    assert coefficients.shape == (drift.count + 1, drift.dim, len(powers))
    x = points(drift.dim, seed=3)
    z = ((x - centre) / scale).numpy()
    values = np.stack([np.prod(z ** np.array(p), 1) for p in powers], 1)
    found = np.einsum("kdp,np->nkd", coefficients, values)
    expected = np.concatenate([drift.fields(x).numpy(), drift.known(x).numpy()[:, None]], 1)
    np.testing.assert_allclose(found, expected, atol=1e-9 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("text", ["sin(x)", "x^5", "1/x", "1/(1 + x^2)", "abs(x)", "log(x)", "exp(-y)", "x^4*y"])
def test_what_is_no_polynomial_of_a_low_degree_is_not_taken_for_one(text):
    centre, scale = torch.tensor([0.3, -0.2]).double(), torch.tensor([1.0, 0.6]).double()
    field = drifts.from_expressions({"a": ["x", "0"], "b": [text, "y"]}, None, axes=("x", "y"))
    assert drifts.polynomial_fields(field, centre, scale) is None
    known = drifts.from_expressions({"a": ["x", "0"]}, ["0", text], axes=("x", "y"))
    assert drifts.polynomial_fields(known, centre, scale) is None
    if text == "x^5":
        assert drifts.polynomial_fields(field, centre, scale, highest=5) is not None


def test_a_bend_that_only_the_data_reach_is_seen_there():
    drift = drifts.from_expressions({"a": ["abs(x - 9) + x"]}, None, axes=("x",))
    centre, scale = torch.zeros(1).double(), torch.ones(1).double()
    assert drifts.polynomial_fields(drift, centre, scale) is not None
    here, there = torch.tensor([[8.5]]).double(), torch.tensor([[9.5]]).double()
    assert drifts.polynomial_fields(drift, centre, scale, states=here) is not None
    assert drifts.polynomial_fields(drift, centre, scale, states=there) is None


def test_only_a_drift_without_a_known_part_scales_with_the_diffusivity():
    plain = [
        drifts.polynomial(2, 2, axes=("x", "y")),
        drifts.from_expressions({"a": ["x", "y"]}, None, axes=("x", "y")),
        drifts.from_expressions({"a": ["x", "y"]}, [], axes=("x", "y")),
        systems.build("double-well", diffusivity=1.0).terms,
    ]
    assert all(drift.homogeneous and not drift.fixes_clock for drift in plain)
    known = drifts.from_expressions({"a": ["x", "y"]}, ["y", "-x"], axes=("x", "y"))
    assert known.fixes_clock and not known.homogeneous
    for name, fixes in (("lorenz", True), ("hopf", False), ("ornstein-uhlenbeck", False)):
        terms = systems.build(name, diffusivity=1.0).terms
        assert not terms.homogeneous and terms.fixes_clock == fixes


def test_rates_of_growth_are_their_expressions():
    x = points(2)
    growth = drifts.Growth.from_expressions({"out": "x^2 - y", "one": "1"}, "2*cos(y)", axes=("x", "y"))
    assert growth.names == ("out", "one") and growth.count == 2
    a, b = x.T
    torch.testing.assert_close(growth.terms(x), torch.stack([a**2 - b, torch.ones(25).double()], 1))
    torch.testing.assert_close(growth.known(x), 2 * torch.cos(b))
    bare = drifts.Growth.from_expressions({}, "3", axes=("x", "y"))
    assert bare.terms(x).shape == (25, 0) and bare.known(x).tolist() == [3.0] * 25
    unknown = drifts.Growth.from_expressions({"a": "x"}, axes=("x", "y"))
    assert not unknown.known(x).any() and unknown.known(x).shape == (25,)
    single = unknown.terms(x.float())
    assert single.dtype == torch.float32
    with pytest.raises(ValueError, match="the name 'z'"):
        drifts.Growth.from_expressions({"a": "z"}, axes=("x", "y"))


def test_single_precision_stays_single():
    for drift in (
        drifts.polynomial(3, 2, axes=AXES),
        systems.build("lorenz", diffusivity=1.0).terms,
        systems.build("ornstein-uhlenbeck", dim=3, diffusivity=1.0).terms,
        drifts.from_expressions({"a": ["-x", "2", "sin(z)"]}, ["0", "x*y", "1"], axes=AXES),
    ):
        x = points(3).float()
        parts = drift.fields(x), drift.divergences(x), drift.known(x), drift.known_divergence(x)
        assert {part.dtype for part in parts} == {torch.float32}
        wide = drift.fields(x.double())
        torch.testing.assert_close(parts[0].double(), wide, rtol=1e-5, atol=1e-5)


READ = {
    "-x*y + sin(z)": lambda x, y, z: -x * y + np.sin(z),
    "x^2 - 2*y**3": lambda x, y, z: x**2 - 2 * y**3,
    "-x^2": lambda x, y, z: -(x**2),  # the power binds before the sign
    "2^3^2": lambda x, y, z: 512.0 + 0 * x,
    "1/(1 + z^2)": lambda x, y, z: 1 / (1 + z**2),
    "exp(-abs(x)) * tanh(y) - cos(x)": lambda x, y, z: np.exp(-abs(x)) * np.tanh(y) - np.cos(x),
    "log(sqrt(4 + x^2)) + tan(y/9)": lambda x, y, z: np.log(np.sqrt(4 + x**2)) + np.tan(y / 9),
    "+3e-1": lambda x, y, z: 0.3 + 0 * x,
    "x - (y - z)": lambda x, y, z: x - (y - z),
}


@pytest.mark.parametrize("text", READ)
def test_arithmetic_is_read_as_it_is_written(text):
    x = points(3)
    read = drifts.expression(text, AXES)
    found = torch.stack([read(p).expand(()) for p in x]).numpy()
    np.testing.assert_allclose(found, READ[text](*x.numpy().T), rtol=1e-12, atol=1e-12)


def test_a_plain_number_is_an_expression():
    assert drifts.expression(3, AXES)(points(3)[0]) == 3.0


REFUSED = [
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "x.real",
    "x.__class__",
    "open('f')",
    "eval('1')",
    "exec('1')",
    "lambda: 0",
    "[a for a in (1,)]",
    "x if y else z",
    "x, y",
    "[x]",
    "{x}",
    "x[0]",
    "(a := 3)",
    "'text'",
    "f'{x}'",
    "1j",
    "None",
    "...",
    "x < y",
    "x and y",
    "not x",
    "~x",
    "x @ y",
    "x // y",
    "x % y",
    "x << 2",
    "sin",
    "sin()",
    "sin(x, y)",
    "sin(*x)",
    "sin(x=y)",
    "x(y)",
    "(sin)(x)(y)",
    "import os",
    "x = 1",
    "x; y",
    "x +",
    "",
]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_that_is_not_arithmetic_is_refused(text):
    with pytest.raises(ValueError, match="cannot read .* in the expression .* use numbers, the axes"):
        drifts.expression(text, AXES)


@pytest.mark.parametrize("text", ["True", "x + False", "1e999"])
def test_numbers_are_finite_numbers(text):
    with pytest.raises(ValueError, match="cannot read"):
        drifts.expression(text, AXES)


@pytest.mark.parametrize(
    "text", ["-" * 5000 + "x", "(" * 300 + "x" + ")" * 300, "x\0"], ids=["signs", "brackets", "null"]
)
def test_a_text_that_breaks_the_reader_is_refused_in_words(text):
    with pytest.raises(ValueError, match="in the expression"):
        drifts.expression(text, AXES)


def test_an_unknown_name_is_answered_with_the_nearest_axis():
    with pytest.raises(ValueError, match="the name 'progres' .did you mean 'progress'"):
        drifts.expression("2*progres", ("progress", "fate"))


def test_refused_text_is_never_run(tmp_path):
    victim = tmp_path / "touched"
    with pytest.raises(ValueError, match="cannot read"):
        drifts.expression(f"open({str(victim)!r}, 'w')", AXES)
    assert not victim.exists()


def test_a_library_by_hand_equals_the_polynomial_one():
    written = {}
    whole = drifts.polynomial(2, 2, axes=("x", "y"))
    for name in whole.names:
        axis, monomial = name.split(": ")
        text = monomial.replace(" ", "*")
        written[name] = [text if axis == a else "0" for a in ("x", "y")]
    hand = drifts.from_expressions(written, None, axes=("x", "y"), time_unit="h")
    x = points(2)
    torch.testing.assert_close(hand.fields(x), whole.fields(x))
    torch.testing.assert_close(hand.divergences(x), whole.divergences(x))
    torch.testing.assert_close(hand.known(x), whole.known(x))
    torch.testing.assert_close(hand.known_divergence(x), whole.known_divergence(x))
    assert hand.names == whole.names and not hand.fixes_clock and "1/h" in hand.units[0]


def test_a_known_part_by_hand_equals_the_registered_system():
    terms = {"sigma": ["y - x", "0", "0"], "rho": ["0", "x", "0"], "beta": ["0", "0", "-z"]}
    hand = drifts.from_expressions(terms, ["0", "-y - x*z", "x*y"], axes=AXES)
    system = systems.build("lorenz", diffusivity=1.0).terms
    x = points(3)
    for name in ("fields", "divergences", "known", "known_divergence"):
        torch.testing.assert_close(getattr(hand, name)(x), getattr(system, name)(x), rtol=1e-12, atol=1e-12)
    assert hand.fixes_clock


def test_divergences_of_transcendental_fields_are_traces():
    terms = {"a": ["sin(x*y)", "exp(-y^2)"], "b": ["tanh(x)", "x/(2 + cos(y))"]}
    drift = drifts.from_expressions(terms, ["sqrt(4 + x^2)", "log(9 + y)"], axes=("x", "y"))
    x = points(2, 10)
    for k in range(2):
        found = drift.divergences(x)[:, k]
        torch.testing.assert_close(found, traces(lambda p, k=k: drift.fields(p)[:, k], x))
    torch.testing.assert_close(drift.known_divergence(x), traces(drift.known, x))


def test_every_entry_of_the_wrong_length_is_named():
    with pytest.raises(ValueError, match=r"'a' has 1 expressions.*'known' has 3 expressions.*\['x', 'y'\]") as told:
        drifts.from_expressions({"a": ["x"], "b": ["x", "y"]}, ["0", "0", "0"], axes=("x", "y"))
    assert "'b'" not in str(told.value)


def mine(*, axes, time_unit):
    """A library from outside, for ``test_drifts:mine``."""
    return drifts.affine(len(axes), axes=axes, time_unit=time_unit)


def test_build_makes_every_library():
    def names(spec, axes=("x", "y")):
        return drifts.build(spec, axes=axes, time_unit="day").names

    assert len(names({"library": "polynomial"})) == 12  # degree 2 unless said
    assert len(names({"library": "polynomial", "degree": 3})) == 20
    assert len(names({"library": "affine"})) == 6
    assert names({"library": "custom", "terms": {"k": ["-x", "0"]}}) == ("k",)
    assert names({"library": "hopf", "parameters": {"turn": 2.0}}) == ("growth", "saturation")
    assert len(names({"library": "ornstein-uhlenbeck"}, ("a", "b", "c"))) == 6  # as many axes as the data
    assert names({"library": "test_drifts:mine"}) == names({"library": "affine"})
    known = drifts.build({"library": "hopf", "parameters": {"turn": 2.0}}, axes=("x", "y")).known(points(2))
    torch.testing.assert_close(known, 2 * torch.stack([points(2)[:, 1], -points(2)[:, 0]], 1))


@pytest.mark.parametrize(
    ("spec", "axes", "said"),
    [
        ({"library": "polynomal"}, AXES, "did you mean 'polynomial'"),
        ({"library": "zebra"}, AXES, r"known: \['polynomial', 'affine', 'custom', 'lorenz'.*package.module:function"),
        ({"library": "lorenz"}, ("x", "y"), r"'lorenz' has 3 axes, the data have 2: \['x', 'y'\]"),
        ({"library": "hopf", "parameters": {"trun": 1}}, ("x", "y"), r"no parameters \['trun'\]"),
        ({"library": "custom", "terms": {"a": ["x", "y", "w"]}}, AXES, "the name 'w'"),
        ({"library": "custom", "terms": {"a": ["x"]}}, AXES, "expected one for each of the axes"),
    ],
)
def test_build_refuses_and_says_what_would_do(spec, axes, said):
    with pytest.raises(ValueError, match=said):
        drifts.build(spec, axes=axes)


@pytest.mark.parametrize("library", ["no_such_module:drift", "test_drifts:no_such_function"])
def test_a_library_from_outside_that_cannot_be_imported_is_refused_in_words(library):
    with pytest.raises(ValueError, match=library):
        drifts.build({"library": library}, axes=AXES)


def test_axes_that_are_no_words_go_by_their_number():
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    law = drifts.from_expressions({"a": ["x0 * x1", "0"]}, None, axes=["PC 1", "PC 2"])
    assert law.fields(x)[0, 0].tolist() == [6.0, 0.0]
    swapped = drifts.from_expressions({"a": ["x0", "0"]}, None, axes=["x1", "x0"])  # an axis' own name comes first
    assert swapped.fields(x)[0, 0, 0] == 3.0
    with pytest.raises(ValueError, match=r"x0 \.\. x1"):
        drifts.expression("pc1", ["PC 1", "PC 2"])


def test_a_library_may_be_narrowed_to_some_of_its_terms(rng):
    whole = drifts.build({"library": "polynomial", "degree": 2}, axes=("u", "w"))
    some = drifts.build({"library": "polynomial", "degree": 2, "only": ["w: u", "u: w^2"]}, axes=("u", "w"))
    x = torch.from_numpy(rng.normal(size=(7, 2)))
    kept = [whole.names.index(name) for name in ("u: w^2", "w: u")]  # in the library's order
    assert some.names == ("u: w^2", "w: u") and some.count == 2
    torch.testing.assert_close(some.fields(x), whole.fields(x)[:, kept])
    torch.testing.assert_close(some.divergences(x), whole.divergences(x)[:, kept])
    with pytest.raises(ValueError, match=r"has no terms 'u: v' \(did you mean 'u: .*'\?\), 'nothing like it'; it has"):
        drifts.build({"library": "polynomial", "degree": 2, "only": ["u: v", "nothing like it"]}, axes=("u", "w"))


COMPLETE = {
    "system": ({"library": "hopf", "parameters": {"growth": 0.5}}, lambda x, y: 0.5 * x - x * (x * x + y * y) + y),
    "custom": ({"library": "custom", "known": ["sin(y)", "-x"]}, lambda x, y: torch.sin(y)),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_drift_without_unknowns_is_complete(name):
    spec, first = COMPLETE[name]
    found, x = drifts.complete(spec, axes=("x", "y")), torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(found.drift(x)[:, 0], first(*x.T))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda point: found.drift(point[None])[0]))(x)
    torch.testing.assert_close(found.divergence(x), jacobian.diagonal(dim1=1, dim2=2).sum(1))
    assert found.drift(x.float()).dtype == torch.float32


@pytest.mark.parametrize(
    "spec",
    [
        {"library": "affine"},
        {"library": "polynomial", "degree": 1},
        {"library": "custom", "terms": {"a": ["x", "0"]}, "known": ["y", "-x"]},
        {"library": "hopf", "only": ["growth"]},
    ],
)
def test_a_drift_with_unknowns_is_not(spec):
    assert drifts.complete(spec, axes=("x", "y")) is None


def test_a_library_without_terms_has_none_to_evaluate():
    drift, x = drifts.build({"library": "custom", "known": ["y", "-x"]}, axes=("x", "y")), torch.ones(4, 2)
    assert drift.count == 0 and drift.fields(x).shape == (4, 0, 2) and drift.divergences(x).shape == (4, 0)
    torch.testing.assert_close(drift(x.new_zeros(0), x), torch.tensor([[1.0, -1.0]]).expand(4, 2))


def test_a_system_whose_drift_depends_on_the_diffusivity_is_completed_with_it():
    x = torch.randn(5, 2, dtype=torch.float64)
    one, half = (
        drifts.complete({"library": "nine-clusters"}, axes=("x", "y"), diffusivity=d).drift(x) for d in (1.0, 0.5)
    )
    torch.testing.assert_close(half, one / 2)
