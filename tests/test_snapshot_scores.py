"""Scores of snapshots against those of known Gaussians, also far out and in small units."""

import numpy as np
import pytest
import torch

from snapdyn.courses import Courses
from snapdyn.snapshot_scores import snapshot_scores
from snapdyn.snapshots import Snapshots

COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.5]])


def gaussian_courses(n=1500, unit=1.0):
    rng, factor = np.random.default_rng(0), np.linalg.cholesky(COVARIANCE)
    x = unit * np.concatenate([rng.standard_normal((n, 2)) @ factor.T, 1 + rng.standard_normal((n, 2))])
    meta = {"axes": ["a", "b"], "dim": 2}
    course = Snapshots.build(x, t=np.repeat([0.0, 1.0], n), meta=meta)
    return Courses.stacked([course, course], dtype=torch.float64)


def exact(courses, unit=1.0):
    """The true scores in units of the courses."""
    place = [unit**-1 * (courses.scale[0] * x[0].numpy() + courses.centre[0]) for x in courses.x]
    first, second = -place[0] @ np.linalg.inv(COVARIANCE), 1 - place[1]
    return [torch.from_numpy(s) * courses.scale[0] / unit for s in (first, second)]


@pytest.mark.parametrize(("kind", "worst"), [("mixture", 0.02), ("kernel", 0.2)])
@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_scores_of_gaussians(kind, worst, unit):
    courses = gaussian_courses(unit=unit)
    found = snapshot_scores(courses, kind=kind, seeds=[0, 1])
    for ours, truth, x in zip(found, exact(courses, unit), courses.x, strict=True):
        assert ours.shape == x.shape
        error = (ours[0] - truth).square().sum(1).mean() / truth.square().sum(1).mean()
        assert error < worst
        assert (-ours[0] - truth).square().sum(1).mean() / truth.square().sum(1).mean() > 1  # the sign
        far = truth.norm(dim=1).argsort()[-5:]
        assert kind == "kernel" or (ours[0][far].norm(dim=1) > 0.4 * truth[far].norm(dim=1)).all()  # no floor out there


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="mixture.*kernel"):
        snapshot_scores(gaussian_courses(50), kind="clipped", seeds=[0, 1])
