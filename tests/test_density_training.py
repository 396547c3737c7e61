"""Objectives against exact values, and the training loop: masses, stopping, resuming."""

import math

import numpy as np
import pytest
import torch

from snapdyn import checkpoint, densities, density_training, systems
from snapdyn.density_training import Combined, Dynamics, Likelihood, Recipe, ScoreMatching, train

BOX = torch.tensor([[-3.0, 3.0], [-3.0, 3.0]], dtype=torch.float64)


class Linear:
    """f = -A x; with D = 1 its law is N(0, C), A C + C A^T = 2 I."""

    def __init__(self, turn=0.7):
        self.matrix = torch.tensor([[2.0, turn], [-turn, 2.0]], dtype=torch.float64)

    def drift(self, x):
        return -x @ self.matrix.to(x).T

    def divergence(self, x):
        return torch.full_like(x[:, 0], -4.0)


def gaussian(variance=0.5, components=1):
    """N(0, variance I); several components lie on each other."""
    return densities.MixtureFlow.from_mixture(
        torch.zeros(components, 2, dtype=torch.float64),
        variance * torch.eye(2, dtype=torch.float64),
        torch.zeros(components, dtype=torch.float64),
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("variance", "vanishes"), [(0.5, True), (0.6, False)])
@pytest.mark.parametrize("diffusivity", [1.0, [[1.0, 0.0], [0.0, 1.0]]])
def test_the_residual_of_the_exact_law_vanishes(variance, vanishes, diffusivity):
    x, motion = torch.randn(50, 2, generator=generator(), dtype=torch.float64), Linear()
    model = gaussian(variance)
    residual, log_prob = density_training.stationary_residual(
        model, x, motion.drift(x), motion.divergence(x), diffusivity
    )
    assert (float(residual.detach().abs().max()) < 1e-10) == vanishes
    torch.testing.assert_close(log_prob, model.log_prob(x))


def test_a_matrix_of_noise_in_the_residual():
    """f = -A x, noise D = [[1, .3], [.3, .5]]: at rest with the covariance of the Lyapunov equation."""
    from scipy.linalg import solve_continuous_lyapunov

    noise, motion = np.array([[1.0, 0.3], [0.3, 0.5]]), Linear()
    covariance = torch.from_numpy(solve_continuous_lyapunov(motion.matrix.numpy(), 2 * noise))
    model = densities.MixtureFlow.from_mixture(torch.zeros(1, 2).double(), covariance, torch.zeros(1).double())
    x = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    right = density_training.stationary_residual(model, x, motion.drift(x), motion.divergence(x), noise.tolist())[0]
    wrong = density_training.stationary_residual(model, x, motion.drift(x), motion.divergence(x), 0.75)[0]
    assert right.abs().max() < 1e-10 < 0.01 < wrong.abs().max()


class TestDynamics:
    @pytest.mark.parametrize("form", density_training.FORMS)
    def test_every_form_is_smallest_at_the_exact_law(self, form):
        objective = Dynamics(Linear(), 1.0, BOX, form=form)
        losses = {}
        for variance in (0.4, 0.5, 0.6):
            model = gaussian(variance)
            losses[variance] = float(objective(model, objective.batch(model, 4000, generator())).detach())
        assert losses[0.5] == min(losses.values())
        assert losses[0.5] < (losses[0.4] - 4.6 if form not in ("plain", "detached") else 0.01 * losses[0.4])

    def test_the_weighted_form_estimates_its_integral(self):
        model, objective = gaussian(0.6), Dynamics(Linear(), 1.0, BOX, form="weighted")
        line = (torch.arange(400, dtype=torch.float64) + 0.5) / 400 * 6 - 3
        x = torch.cartesian_prod(line, line)
        motion = Linear()
        residual, log_prob = density_training.stationary_residual(model, x, motion.drift(x), motion.divergence(x), 1.0)
        inside = float(log_prob.exp().sum() * (6 / 400) ** 2)
        exact = float((log_prob.exp() * residual.abs()).sum() * (6 / 400) ** 2) / inside
        exact = math.log(exact) + density_training.OUTSIDE * (1 - inside)
        found = float(objective(model, objective.batch(model, 200_000, generator())))
        assert found == pytest.approx(exact, abs=0.02)
        uniform = float(Dynamics(Linear(), 1.0, BOX, form="plain")(model, x))
        assert abs(math.log(uniform) - exact) > 0.5

    @pytest.mark.parametrize(("form", "pulls"), [("weighted", True), ("detached", False)])
    def test_mass_outside_is_pulled_in(self, form, pulls):
        """Far from all the mass inside, one component outside: only the weighted form lowers its weight."""
        away = torch.tensor([[0.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
        model = densities.MixtureFlow.from_mixture(away, 0.5 * torch.eye(2).double(), torch.zeros(2).double())
        objective = Dynamics(Linear(), 1.0, BOX, form=form)
        objective(model, objective.batch(model, 2000, generator())).backward()
        assert objective.mass(model, generator()) == pytest.approx(0.5, abs=0.05)
        assert (float(model.logits.grad[1]) > 0.01) == pulls

    def test_an_empty_box_ends_the_training(self):
        away = torch.tensor([[0.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
        model = densities.MixtureFlow.from_mixture(away, 0.5 * torch.eye(2).double(), torch.tensor([0.0, 1.0]).double())
        with pytest.raises(ValueError, match="only 2.% of the model's probability is inside the box at step 5"):
            train(model, Dynamics(Linear(), 1.0, BOX, form="plain"), Recipe(steps=20, batch=50, every=5), seed=0)

    def test_unknown_forms_are_refused(self):
        with pytest.raises(ValueError, match="weighted-square"):
            Dynamics(Linear(), 1.0, BOX, form="squared")

    def test_a_limit_cycle_is_learned_from_its_dynamics(self):
        """From a random start; the paper's loss with the same effort stays far away."""
        system, box = systems.build("hopf", diffusivity=0.2), torch.tensor([[-2.2, 2.2], [-2.2, 2.2]])
        line = (torch.arange(100) + 0.5) / 100 * 4.4 - 2.2
        x = torch.cartesian_prod(line, line)
        exact = system.log_prob(0.0, x).exp() * 0.044**2

        class Motion:
            drift, divergence = (
                staticmethod(lambda x: system.drift(0.0, x)),
                staticmethod(lambda x: system.divergence(0.0, x)),
            )

        def distance(form):
            model = densities.MixtureFlow(2, 40)
            with torch.no_grad():
                model.centroids.normal_(generator=generator())
                model.set_covariance(0.09 * torch.eye(2))
            recipe = Recipe(steps=1500, batch=256, rate=2e-2, patience=None)
            train(model, Dynamics(Motion, 0.2, box, form=form), recipe, seed=0)
            with torch.no_grad():
                return float((model.log_prob(x).exp() * 0.044**2 - exact).abs().sum() / 2)

        assert distance("weighted-square") < 0.1
        assert distance("plain") > 0.15


class TestDataObjectives:
    x = torch.randn(50_000, 2, generator=generator(5), dtype=torch.float64)

    def test_likelihood_is_the_cross_entropy(self):
        variance = 2.0
        found = float(Likelihood(self.x)(gaussian(variance), self.x).detach())
        assert found == pytest.approx(math.log(2 * math.pi * variance) + 1 / variance, abs=0.02)

    def test_score_matching_is_the_fisher_divergence_up_to_a_constant(self):
        """For N(0, v): |s|^2 / 2 + div s averages to 1 / v^2 - 2 / v; smallest at v = 1, whatever is not told to it."""
        objective = ScoreMatching(self.x)
        for variance in (0.5, 1.0, 2.0):
            found = float(objective(gaussian(variance), self.x).detach())
            assert found == pytest.approx(1 / variance**2 - 2 / variance, abs=0.03)
        assert float(objective(gaussian(1.0), self.x)) < float(objective(gaussian(1.1), self.x))

    def test_denoising_learns_the_smoothed_score(self):
        objective = ScoreMatching(self.x, noise=1.0)
        batch = objective.batch(gaussian(), 50_000, generator())
        losses = {v: float(objective(gaussian(v), batch)) for v in (1.0, 1.8, 2.0, 2.2)}
        assert min(losses, key=losses.get) == 2.0  # 1 + noise^2, not 1

    def test_combined_is_their_sum(self):
        """N(0, v) against N(0, 1): score matching over the mean squared score 2 / v^2 is 1/2 - v."""
        for variance, share in ((2.0, 0.3), (0.5, 1.0)):
            model = gaussian(variance)
            with torch.no_grad():
                both = float(Combined(self.x, share=share)(model, self.x))
                likelihood = float(Likelihood(self.x)(model, self.x))
            assert both == pytest.approx(likelihood + share * (0.5 - variance), abs=0.02)

    def test_units_do_not_decide_score_matching(self):
        unit = torch.tensor([100.0, 0.01], dtype=torch.float64)
        scaled = densities.MixtureFlow(2, 1, scale=unit).double()
        there = float(ScoreMatching(self.x * unit)(scaled, self.x * unit))
        assert there == pytest.approx(float(ScoreMatching(self.x)(gaussian(1.0), self.x)))

    def test_weights_of_rows_decide_how_often_they_are_drawn(self):
        weight = (self.x[:, 0] > 0).double()
        drawn = Likelihood(self.x, weight).batch(gaussian(), 500, generator())
        assert (drawn[:, 0] > 0).all()


def blobs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    return centres[torch.randint(2, (600,), generator=generator)] + 0.3 * torch.randn(600, 2, generator=generator)


def fresh(stacks=2):
    model = densities.MixtureFlow(2, 4, stacks=stacks, hidden=8)
    with torch.no_grad():
        model.centroids.normal_(generator=generator())
    return model


class TestLoop:
    def test_likelihood_reaches_the_entropy(self):
        x = blobs()
        model = fresh(0)
        history = train(model, Likelihood(x), Recipe(steps=800, rate=2e-2), seed=0, validation=blobs(1))
        entropy = math.log(2) + math.log(2 * math.pi * math.e * 0.09)
        assert float(Likelihood(x)(model, blobs(2)).detach()) == pytest.approx(entropy, abs=0.08)
        assert {term for _, term, _ in history} == {"loss", "validation"}

    def test_it_stops_when_validation_says_so_and_keeps_the_best(self):
        few = blobs()[:12]
        model, recipe = fresh(0), Recipe(steps=4000, rate=5e-2, every=20, patience=3)
        history = train(model, Likelihood(few), recipe, seed=0, validation=blobs(1))
        judged = [value for _, term, value in history if term == "validation"]
        assert history[-1][0] < 4000
        assert float(Likelihood(few)(model, blobs(1)).detach()) == pytest.approx(min(judged), rel=1e-5)
        assert judged[-1] > min(judged)

    def test_the_same_seed_gives_the_same_bits(self):
        first, second, other = fresh(), fresh(), fresh()
        recipe = Recipe(steps=30, every=10)
        for model, seed in ((first, 0), (second, 0), (other, 1)):
            train(model, ScoreMatching(blobs(), noise=0.2), recipe, seed=seed, validation=blobs(1))
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert not torch.equal(first.centroids, other.centroids)

    def test_an_interrupted_training_goes_on_to_the_same_bits(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint, "SECONDS", 0)
        monkeypatch.setattr(checkpoint, "SHARE", 0)
        recipe, whole = Recipe(steps=60, every=10), fresh()
        wanted = train(whole, Likelihood(blobs()), recipe, seed=0, validation=blobs(1))

        class Stop(Exception):
            pass

        class Stopping(Likelihood):
            def batch(self, model, n, generator):
                Stopping.steps += 1
                if Stopping.steps == 37:
                    raise Stop
                return super().batch(model, n, generator)

        Stopping.steps, again = 0, fresh()
        with pytest.raises(Stop):
            train(
                again,
                Stopping(blobs()),
                recipe,
                seed=0,
                validation=blobs(1),
                keep=checkpoint.Checkpoint(tmp_path / "c.pt"),
            )
        again = fresh()
        keep = checkpoint.Checkpoint(tmp_path / "c.pt")
        Stopping.steps = -1000
        found = train(again, Stopping(blobs()), recipe, seed=0, validation=blobs(1), keep=keep)
        assert Stopping.steps == -1000 + 60 - 36
        assert found == wanted
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))

    def test_a_loss_that_is_not_finite_ends_it(self):
        far = torch.cat([blobs(), torch.full((600, 2), float("inf"))])
        with pytest.raises(ValueError, match="not finite at step 1: take a smaller rate"):
            train(fresh(), Likelihood(far), Recipe(steps=5), seed=0)

    def test_a_penalty_keeps_the_couplings_near_the_identity(self):
        free, bound = fresh(), fresh()
        for model, penalty in ((free, 0.0), (bound, 1.0)):
            train(model, Likelihood(blobs()), Recipe(steps=100, penalty=penalty), seed=0)
        assert bound.coefficients().abs().sum() < 0.2 * free.coefficients().abs().sum()
