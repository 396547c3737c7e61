"""Is the fitted model better than doing nothing: yes, no, or cannot tell.

The answer is the 95 % interval of the *paired* gain over a null, bootstrapped over held-out cells and
over seeds. ``yes`` if its lower end is above 0; ``no`` if its upper end is below the margin, so that
even the best case is not worth having; otherwise the data cannot tell.

* Timed data: the null is no movement, the score is W1 one step ahead, averaged over transitions.
* A density: the null is one Gaussian (at each time), the score is the negative log-likelihood of held-out cells.
* One stationary cloud, where no movement means nothing: the null is the best linear drift, the score
  is the squared weak-form residual on held-out points, less what noise alone makes of it.

Cells are resampled by random weights (the Bayesian bootstrap), one draw for each source row, which is
therefore shared by all the roles that a cell plays: source and target of neighbouring transitions, and
held-out cell under several split seeds.
"""

from dataclasses import dataclass

import numpy as np

from snapdyn import metrics
from snapdyn.snapshots import Snapshots

REPLICATES = 2000
MARGIN = 0.05  # of the null's score: a smaller gain is not worth having
LIKELIHOOD_MARGIN = 0.05  # nats a cell: the density at a typical cell is 5 % higher
_BLOCK = 100  # replicates at a time, so that memory stays flat


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a model made of the held-out cells of one seed.

    Attributes:
        cells: the held-out cells at all times; ``row`` identifies a cell over seeds.
        predicted: for each transition the cells of its start (in the order of ``cells.select(t=...)``) moved to its
            end, ``(n, dim)``.
        seed: of the split and the fit.
        transitions: ``(start, end)`` of each; from every time to the next by default.
    """

    cells: Snapshots
    predicted: list
    seed: int = 0
    transitions: tuple = ()

    def __post_init__(self):
        if not self.transitions:
            times = self.cells.times.tolist()
            object.__setattr__(self, "transitions", tuple(zip(times[:-1], times[1:], strict=True)))
        got = [np.shape(x) for x in self.predicted]
        wanted = [(int((self.cells.t == start).sum()), self.cells.dim) for start, _ in self.transitions]
        if not wanted or got != wanted:
            raise ValueError(f"expected predictions of shapes {wanted} (one for each transition), got {got}")


def forecast_gain(
    forecasts,
    *,
    rng,
    replicates=REPLICATES,
    margin=MARGIN,
    null="no movement",
    score="mean W1 one step ahead",
    max_points=metrics.MAX_POINTS,
):
    r"""Verdict on timed data: the drop of mean W1 below that of no movement.

    Transport is solved once for each transition. A replicate moves the weights of the cells, and the
    gain follows to first order through the dual potentials of the two plans (f of the source cells, g
    of the target cells; 0 the null, 1 the model), because both predictions move the same cells:

    .. math:: \Delta^* = \Delta + \sum_i (w_i^* - w_i)(f_i^0 - f_i^1) + \sum_j (v_j^* - v_j)(g_j^0 - g_j^1)

    Unlike a bootstrap of the clouds themselves, this has no repeated points, which would raise W1.

    Args:
        forecasts: one :class:`Forecast` for each seed.
        rng: generator of the replicates, and of the thinning of snapshots above ``max_points`` cells.
        margin: smallest gain worth having, as a share of the null's score.
        null, score: what the sentence calls them.
    Returns:
        the verdict, see :func:`decide`.
    Equation: ``gain-interval``
    """
    if not forecasts:
        raise ValueError("expected a forecast for one seed at least, got none")
    thinned = [_thin(forecast, max_points, rng) for forecast in forecasts]
    scored = [_score(forecast) for forecast in thinned]
    null_score, model_score = (np.array([s[i] for s in scored]) for i in (0, 1))
    deviations = np.zeros((replicates, len(forecasts)))
    times = sorted({t for forecast in thinned for t in forecast.cells.times})
    for t in times:
        here = [(s, forecast.cells.select(t=t)) for s, forecast in enumerate(thinned)]
        here = [(s, cells) for s, cells in here if len(cells)]
        rows, weights = [c.row for _, c in here], [metrics.marginal(c.weight) for _, c in here]
        for block, draws in resampled(rows, weights, rng, replicates):
            for (s, _), weight, draw in zip(here, weights, draws, strict=True):
                deviations[block, s] += (draw - weight) @ scored[s][2][t]
    return decide(
        null_score,
        model_score,
        (null_score - model_score) + deviations,
        rng=rng,
        margin=margin,
        null=null,
        score=score,
        n_cells=len(np.unique(np.concatenate([forecast.cells.row for forecast in thinned]))),
    )


def _thin(forecast, max_points, rng):
    cells, kept, places = forecast.cells, [], {}
    for t in cells.times:
        rows = np.flatnonzero(cells.t == t)
        keep = np.arange(len(rows))
        if len(rows) > max_points:
            keep = np.sort(rng.choice(len(rows), max_points, replace=False))
        kept.append(rows[keep])
        places[t] = keep
    moved = zip(forecast.predicted, forecast.transitions, strict=True)
    predicted = [np.asarray(x)[places[start]] for x, (start, _) in moved]
    return Forecast(cells.where(np.concatenate(kept)), predicted, forecast.seed, forecast.transitions)


def _score(forecast):
    """Mean W1 of the null and of the model, and the influence of each cell on their difference, by time."""
    cells, transitions = forecast.cells, len(forecast.predicted)
    influence = {t: np.zeros(int((cells.t == t).sum())) for t in cells.times}
    totals = np.zeros(2)
    for k, (start, end) in enumerate(forecast.transitions):
        source, target = cells.select(t=start), cells.select(t=end)
        a, b = metrics.marginal(source.weight), metrics.marginal(target.weight)
        for i, (x, sign) in enumerate(((source.x, 1), (forecast.predicted[k], -1))):
            w1, f, g = metrics.wasserstein(x, target.x, a=a, b=b, with_potentials=True, max_points=max(len(a), len(b)))
            totals[i] += w1 / transitions
            influence[start] += sign * f / transitions
            influence[end] += sign * g / transitions
    return totals[0], totals[1], influence


def likelihood_gain(
    model_losses,
    null_losses,
    *,
    rng,
    rows,
    times,
    weights,
    replicates=REPLICATES,
    margin=LIKELIHOOD_MARGIN,
    null="one Gaussian",
):
    """Verdict on a density: the drop of the mean negative log-likelihood of held-out cells below the null's.

    A likelihood has no zero, so the smallest gain worth having is a number of nats, not a share of the score. Times
    count equally.

    Args:
        model_losses, null_losses: for each seed -log p in nats ``(n,)`` of the same held-out cells.
        rows: for each seed the identity ``(n,)`` of its cells, shared by seeds that hold out the same ones.
        times, weights: for each seed the time (NaN at rest) and the weight ``(n,)`` of its cells.
    Returns:
        the verdict, see :func:`decide`.
    Equation: ``gain-interval``
    """
    groups = [np.nan_to_num(np.asarray(t, dtype=np.float64), nan=np.inf) for t in times]
    counts = [len(np.unique(group)) for group in groups]
    scores, deviations = np.zeros((len(rows), 2)), np.zeros((replicates, len(rows)))
    for t in np.unique(np.concatenate(groups)):
        here = [(s, np.flatnonzero(group == t)) for s, group in enumerate(groups) if (group == t).any()]
        shares = [metrics.marginal(weights[s][cells]) for s, cells in here]
        pairs = [(null_losses[s][cells], model_losses[s][cells]) for s, cells in here]
        for (s, _), share, pair in zip(here, shares, pairs, strict=True):
            scores[s] += np.array([share @ loss for loss in pair]) / counts[s]
        for block, draws in resampled([rows[s][cells] for s, cells in here], shares, rng, replicates):
            for (s, _), share, (before, after), draw in zip(here, shares, pairs, draws, strict=True):
                deviations[block, s] += (draw - share) @ (before - after) / counts[s]
    return decide(
        scores[:, 0],
        scores[:, 1],
        scores[:, 0] - scores[:, 1] + deviations,
        rng=rng,
        margin=margin,
        null=null if max(counts) == 1 else f"{null} at each time",
        score="held-out negative log-likelihood (nats)",
        n_cells=len(np.unique(np.concatenate(rows))),
        of_the_score=False,
    )


def stationary_gain(
    model_residuals,
    null_residuals,
    *,
    rng,
    rows=None,
    replicates=REPLICATES,
    margin=MARGIN,
    null="the best linear drift",
):
    r"""Verdict on one stationary cloud: the drop of the weak-form residual below the null's.

    The generator of the true dynamics, applied to any test function, averages to zero over the cloud.
    With ``r_a(x_i)`` the generator of a fitted drift on test function ``a`` at held-out point ``i``, the
    score is the squared mean, freed of what noise alone adds to it,

    .. math:: \sum_a \bigl( \bar r_a^2 - \mathrm{var}_i(r_a) / n \bigr) / s_a^2

    with ``s_a`` the larger of the two standard deviations, so that the noise of neither drowns the rest. A replicate
    adds the same noise once more, which is taken off too, so that replicates are centred on the score.

    Args:
        model_residuals, null_residuals: one array ``(n, K)`` for each seed (or one array): the same
            held-out points and test functions in both.
        rows: for each seed the identity ``(n,)`` of its points, if seeds share points; else they are
            taken to be distinct.
    Returns:
        the verdict, see :func:`decide`.
    Equation: ``gain-interval``
    """
    models, nulls = _seeds(model_residuals), _seeds(null_residuals)
    if [r.shape for r in models] != [r.shape for r in nulls]:
        got = f"{[r.shape for r in models]} and {[r.shape for r in nulls]}"
        raise ValueError(f"model and null need residuals at the same points, got shapes {got}")
    if any(len(r) < 2 for r in nulls):
        raise ValueError("a residual needs two held-out points at least in each seed")
    if rows is None:
        offsets = np.cumsum([0] + [len(r) for r in nulls[:-1]])
        rows = [start + np.arange(len(r)) for start, r in zip(offsets, nulls, strict=True)]
    rows = [np.asarray(r) for r in ([rows] if np.ndim(rows[0]) == 0 else rows)]
    pairs = [_standardised(null_r, model_r) for null_r, model_r in zip(nulls, models, strict=True)]
    scores = np.array([[_squared_mean(r.mean(axis=0), r, noise=1) for r in pair] for pair in pairs])
    gains = np.zeros((replicates, len(pairs)))
    weights = [np.full(len(r), 1 / len(r)) for r in nulls]
    for block, draws in resampled(rows, weights, rng, replicates):
        for s, (pair, draw) in enumerate(zip(pairs, draws, strict=True)):
            null_part, model_part = (_squared_mean(draw @ r, r, noise=2) for r in pair)
            gains[block, s] = null_part - model_part
    return decide(
        scores[:, 0],
        scores[:, 1],
        gains,
        rng=rng,
        margin=margin,
        null=null,
        score="squared weak-form residual less its noise",
        n_cells=len(np.unique(np.concatenate(rows))),
    )


def _seeds(residuals):
    residuals = [residuals] if np.ndim(residuals[0]) == 1 else residuals
    return [np.asarray(r, dtype=np.float64) for r in residuals]


def _standardised(null, model):
    """Both residuals in units of the larger spread; a test function without one carries no information.

    A nonlinear drift has much larger residuals in the tails than a linear one: in units of the null's spread alone, the
    noise of the highest test functions would be all that is seen.
    """
    scale = np.maximum(null.std(axis=0, ddof=1), model.std(axis=0, ddof=1))
    used = scale > 1e-12 * scale.max(initial=1e-300)
    return null[:, used] / scale[used], model[:, used] / scale[used]


def _squared_mean(mean, residuals, *, noise):
    """Sum of squared means, less ``noise`` times what sampling noise is expected to add."""
    return (mean**2).sum(axis=-1) - noise * residuals.var(axis=0, ddof=1).sum() / len(residuals)


def resampled(rows, weights, rng, replicates):
    """Bootstrap weights of cells that several seeds may share, a block of replicates at a time.

    Args:
        rows: for each seed the identity of its cells ``(n_s,)``.
        weights: for each seed their marginal ``(n_s,)``, which sums to 1.
    Yields:
        the slice of replicates, and for each seed their new marginals ``(block, n_s)``.
    """
    ids, inverse = np.unique(np.concatenate(rows), return_inverse=True)
    parts = np.split(inverse, np.cumsum([len(r) for r in rows])[:-1])
    for start in range(0, replicates, _BLOCK):
        block = slice(start, min(start + _BLOCK, replicates))
        draw = rng.standard_exponential((block.stop - block.start, len(ids)))
        raw = [draw[:, part] * weight for part, weight in zip(parts, weights, strict=True)]
        yield block, [r / r.sum(axis=1, keepdims=True) for r in raw]


def decide(null_score, model_score, gains, *, rng, margin, null, score, n_cells, of_the_score=True):
    """Resample the seeds around replicates over cells, and put the answer in words.

    Deviations of the mean over drawn seeds are widened by ``sqrt(S / (S - 1))``: S values drawn from S
    vary that much less than fresh ones would. With one seed the interval is over cells only.

    Args:
        null_score, model_score: ``(S,)`` for each seed, lower is better.
        gains: replicates of the gain over cells ``(R, S)``.
        margin: smallest gain worth having, as a share of the null's score, or in its unit without ``of_the_score``.
    Returns:
        ``verdict`` (``yes``, ``no`` or ``cannot tell``), ``gain``, ``low``, ``high`` (95 % interval),
        ``null_score``, ``model_score``, ``margin`` (in the units of the score), ``n_cells``,
        ``n_seeds``, ``replicates``, ``null``, ``score`` and a ``sentence``; plain numbers and text.
    """
    replicates, seeds = gains.shape
    gain = float(np.mean(null_score - model_score))
    drawn = rng.integers(seeds, size=(replicates, seeds))
    means = np.take_along_axis(gains, drawn, axis=1).mean(axis=1)
    widening = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
    low, high = (float(v) for v in np.quantile(gain + widening * (means - gain), (0.025, 0.975)))
    threshold = float(margin * max(np.mean(null_score), 0.0) if of_the_score else margin)
    verdict = "yes" if low > 0 else "no" if high < threshold else "cannot tell"
    answer = {
        "verdict": verdict,
        "gain": gain,
        "low": low,
        "high": high,
        "null_score": float(np.mean(null_score)),
        "model_score": float(np.mean(model_score)),
        "margin": threshold,
        "n_cells": int(n_cells),
        "n_seeds": int(seeds),
        "replicates": int(replicates),
        "null": null,
        "score": score,
    }
    return answer | {"sentence": _sentence(answer)}


def _sentence(answer):
    a = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in answer.items()}
    reason = {
        "yes": "the whole interval is above 0",
        "no": f"even its upper end is below {a['margin']}, the smallest gain worth having",
        "cannot tell": f"it reaches from no gain to more than {a['margin']}, the smallest gain worth having",
    }[answer["verdict"]]
    cells = f"{a['n_cells']} held-out cells"
    seeds = "one seed (its spread is not in the interval)" if a["n_seeds"] == 1 else f"{a['n_seeds']} seeds"
    return (
        f"Better than {a['null']}: {a['verdict']}. The {a['score']} is {a['model_score']} against "
        f"{a['null_score']}; the gain is {a['gain']}, 95 % interval {a['low']} to {a['high']} over {cells} "
        f"and {seeds}: {reason}."
    )
