"""Scores of one method over all seeds beside its baselines, and the verdict against doing nothing."""

import pandas as pd

from snapdyn import crossed, energy_scores, forecasts, interpolation, metrics, models, recovery, stationary

REPORTED = (
    "cross_fitted",
    "carrying_rows",
    "condition_number",
    "rank",
    "largest_singular_value",
    "smallest_singular_value",
)
REPORTED += ("kept", "threshold", "j_rise", "j_rise_dof", "j_rise_p_value")


def evaluate(fit, *, cells, predicted, fitted, baselines, truths, forecasts_of_truth, rng, inits=()):
    """Everything that is known about how good a fit is.

    Args:
        fit: :class:`snapdyn.config.Fit`.
        cells, predicted: snapshots and predictions of every seed.
        fitted: models of every seed, None where the class cannot be saved.
        baselines: ``metrics/1`` frames of the same data, one a seed; empty for stationary clouds.
        truths, forecasts_of_truth: true velocities (``field/1``) and predictions of the true law, one a seed,
            where the data are synthetic.
        inits: ``metrics/1`` frames of every start of the training, one a seed, where there are several
            (:func:`snapdyn.crossed.score`).
    Returns:
        a ``metrics/1`` frame and the verdict.
    """
    about = {"paper": fit.paper, "experiment": fit.experiment, "dataset": fit.dataset, "method": fit.method}
    seeds = [int(cell.meta["seed"]) for cell in cells]
    tests = _specification_tests(about, seeds, cells, fitted)
    if fit.kind == "stationary":
        scores, answer = _stationary(fit, about, seeds, cells, fitted, rng)
        return pd.concat([scores, *tests], ignore_index=True), answer
    parts = tests + [frame.assign(paper=fit.paper, experiment=fit.experiment) for frame in baselines]
    if fit.kind == "interpolation":
        scores, answer = _interpolation(about, seeds, cells, predicted, forecasts_of_truth, rng)
        return pd.concat([*parts, *scores], ignore_index=True), answer
    for seed, cell, moved in zip(seeds, cells, predicted, strict=True):
        parts.append(forecasts.score(cell, moved, identity=about | {"seed": seed}))
        turned = forecasts.reversed_moves(cell, moved)
        parts.append(forecasts.score(cell, turned, identity=about | {"seed": seed, "method": "reversed-moves"}))
    for seed, cell, moved in zip(seeds, cells, forecasts_of_truth, strict=False):
        parts.append(forecasts.score(cell, moved, identity=about | {"seed": seed, "method": "true-law"}))
    for seed, truth, model in zip(seeds, truths, fitted, strict=False):
        if callable(getattr(model, "drift", None)):
            cosine = {"velocity_cosine": forecasts.velocity_cosine(model, truth, cells[0].dim)}
            rows = metrics.rows(cosine, split="test", unit="1", n=len(truth), **about | {"seed": seed})
            parts.append(rows)
    if inits:
        each = pd.concat(inits, ignore_index=True)
        parts += [each, crossed.spreads(each, identity=about)]
    answer = forecasts.gain(list(zip(cells, predicted, strict=True)), rng=rng)
    return pd.concat(parts, ignore_index=True), answer


def _interpolation(about, seeds, cells, predicted, forecasts_of_truth, rng):
    """Scores at the times that were held out whole, and the verdict there."""
    rivals = {about["method"]: predicted, "true-law": forecasts_of_truth}
    parts = [
        interpolation.score(cell, moved, identity=about | {"seed": seed, "method": method}, rng=rng)
        for method, clouds in rivals.items()
        for seed, cell, moved in zip(seeds, cells, clouds, strict=False)
    ]
    return parts, interpolation.gain(list(zip(cells, predicted, strict=True)), rng=rng)


def _stationary(fit, about, seeds, cells, fitted, rng):
    if None in fitted:
        raise ValueError(
            f"{fit.method}: a stationary cloud is judged by the drift of the saved model, but its class cannot be "
            "saved; give it state() and from_state()"
        )
    pairs = [
        stationary.residual_pair(model, cell, stationary.diffusivity_of(model, fit.diffusivity))
        for model, cell in zip(fitted, cells, strict=True)
    ]
    rows = [cell.select(split="test").row for cell in cells]
    return stationary.evaluate(pairs, identity=about, seeds=seeds, rows=rows, rng=rng)


def _specification_tests(about, seeds, cells, fitted):
    """What models say of themselves: whether any parameters can satisfy all moments, what the data determine, and how
    the training of an energy ended."""
    parts = []
    for seed, cell, model in zip(seeds, cells, fitted, strict=True):
        found, values, units = getattr(model, "diagnostics", None) or {}, {}, "1"
        if getattr(model, "kind", None) == "energy":
            values = {name: float(value) for name, value in found.items()}
            units = energy_scores.units(values, cell.meta.get("space", "data units"))
        if "j_statistic" in found:
            values = recovery.test_statistics(found) | {name: found[name] for name in REPORTED if name in found}
            values |= {name: value for name, value in found.items() if name.startswith(models.WEAKEST)}
        if values:
            n = int((cell.split == "train").sum())
            parts.append(metrics.rows(values, split="train", unit=units, n=n, **about | {"seed": seed}))
    return parts
