"""The density estimator of the Fokker-Planck paper: a latent Gaussian mixture, pushed through an invertible network.

All centroids share one covariance. log-density, energy, score and divergence come from one forward pass
(:mod:`snapdyn.jets`); sampling is exact.
"""

import math

import torch
from torch import nn

from snapdyn import jets, tabulation

ROWS = 512  # points at a time where no gradient is wanted: what a network makes of them stays in the cache
MAX_EXACT_DIM = 10  # beyond, the divergence is estimated along random directions


class Coupling(nn.Module):
    r"""One affine coupling: some axes stay, the others are scaled and shifted by functions of those that stay.

    .. math:: b' = b\,e^{\sigma(a)} + \tau(a), \quad \sigma = c_s \tanh S(a), \quad \tau = c_t T(a)

    S and T are networks with two hidden layers of tanh; the coefficients c_s and c_t, one an axis, start at zero, so
    that the map starts as the identity.

    Args:
        dim: number of axes.
        moved: indices of the axes that are changed.
        hidden: width of the hidden layers.
    Equation: ``coupling``
    """

    def __init__(self, dim, moved, hidden, generator=None):
        super().__init__()
        kept = [axis for axis in range(dim) if axis not in moved]
        self.register_buffer("kept", torch.tensor(kept), persistent=False)
        self.register_buffer("moved", torch.tensor(list(moved)), persistent=False)
        self.register_buffer("back", torch.tensor([*kept, *moved]).argsort(), persistent=False)
        sizes = [len(kept), hidden, hidden, len(moved)]
        # the networks of scale and shift side by side: (2, in, out)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for into, out in zip(sizes[:-1], sizes[1:], strict=True):
            reach = into**-0.5
            for shape, group in (((2, into, out), self.weights), ((2, out), self.biases)):
                group.append(nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * reach))
        self.coefficients = nn.Parameter(torch.zeros(2, len(moved)))

    def _scale_and_shift(self, kept):
        """sigma and tau ``(n, moved)`` for kept axes ``(n, kept)``."""
        y = kept
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = (y.tanh() if place else y) @ weight + bias[:, None]
        return self.coefficients[0] * y[0].tanh(), self.coefficients[1] * y[1]

    def observed(self, latent):
        """The map towards the data ``(n, dim)``."""
        kept, moved = latent[:, self.kept], latent[:, self.moved]
        scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, moved * scale.exp() + shift], 1)[:, self.back]

    def latent(self, observed):
        """The inverse map ``(n, dim)`` and the logarithm of its determinant ``(n,)``."""
        kept, moved = observed[:, self.kept], observed[:, self.moved]
        scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, (moved - shift) * (-scale).exp()], 1)[:, self.back], -scale.sum(1)

    def latent_jet(self, jet, *, tables=False):
        """:meth:`latent` of a jet ``(2 + m, n, dim)``: two jets, the second ``(2 + m, n)``.

        Args:
            tables: whether networks of one axis may be tabulated; such a jet has no gradient.
        """
        kept, moved = jet[..., self.kept], jet[..., self.moved]
        y = self._tabulated(kept) if tables and kept.shape[-1] == 1 else None
        if y is None:
            y = torch.cat([self._networks(part) for part in kept.split(ROWS if tables else kept.shape[1], 1)], 2)
        scale, shift = self.coefficients[0] * jets.tanh(y[0]), self.coefficients[1] * y[1]
        changed = jets.product(moved - shift, jets.exp(-scale))
        return torch.cat([kept, changed], -1)[..., self.back], -scale.sum(-1)

    def _networks(self, kept):
        """S before its last tanh, and T: jets ``(2, 2 + m, n, moved)`` for the kept axes' jet."""
        y, metric = jets.own(kept) if kept.shape[-1] < len(kept) - 2 else (kept, None)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = jets.affine(jets.tanh(y, metric) if place else y.expand(2, *y.shape), weight, bias)
        return y if metric is None else jets.along(y, kept)

    def _tabulated(self, kept):
        """:meth:`_networks` of one kept axis at many points; None where a table is no good."""
        eye = torch.ones(1, 1).to(kept)
        found = tabulation.evaluated(
            lambda a: self._networks(jets.start(a[:, None], eye)).permute(1, 2, 0, 3).flatten(2), kept[0, :, 0]
        )
        if found is None:
            return None
        value, slope, curve = found.unflatten(2, (2, len(self.moved))).permute(0, 2, 1, 3)
        slopes, bend = kept[1:-1], kept[-1]  # of the axis along the directions
        along = slope[:, None] * slopes
        return torch.cat([value[:, None], along, (curve * slopes.square().sum(0) + slope * bend)[:, None]], 1)


class MixtureFlow(nn.Module):
    r"""A Gaussian mixture with one covariance in latent space, seen through couplings: x = Phi(xi).

    .. math:: \log p(x) = \log\sum_k \lambda_k N(\xi; \Xi_k, \Sigma) + \log|\det \partial\xi/\partial x|

    Without couplings it is a plain mixture. Axes are standardised by ``centre`` and ``scale`` first, so that all
    answers are in the user's units.

    Args:
        dim: number of axes.
        components: number of centroids.
        stacks: number of couplings.
        hidden: width of the networks.
        centre, scale: of the standardisation ``(dim,)``; 0 and 1 by default.
        generator: of the networks' random start; seeded with 0 by default.
    Equation: ``latent-mixture``, ``mixture-energy``
    """

    family = "mixture-flow"

    def __init__(self, dim, components, *, stacks=0, hidden=200, centre=None, scale=None, generator=None):
        super().__init__()
        if stacks and dim < 2:
            raise ValueError(
                f"couplings need two axes at least, got dim = {dim} with stacks = {stacks}: take stacks: 0"
            )
        self.dim, self.components, self.stacks, self.hidden = dim, components, stacks, hidden
        self.centroids = nn.Parameter(torch.zeros(components, dim))
        self.tril = nn.Parameter(torch.zeros(dim, dim))  # of the covariance's Cholesky factor; the diagonal in logs
        self.logits = nn.Parameter(torch.zeros(components))
        generator = generator or torch.Generator().manual_seed(0)
        halves = list(range(0, dim, 2)), list(range(1, dim, 2))
        self.flow = nn.ModuleList(Coupling(dim, halves[(place + 1) % 2], hidden, generator) for place in range(stacks))
        self.register_buffer("centre", torch.zeros(dim) if centre is None else torch.as_tensor(centre).clone())
        self.register_buffer("scale", torch.ones(dim) if scale is None else torch.as_tensor(scale).clone())

    @classmethod
    def from_mixture(cls, centroids, covariance, log_weights):
        """The plain mixture with ``centroids (k, dim)``, ``covariance (dim, dim)``, ``log_weights (k,)``."""
        found = cls(centroids.shape[1], len(centroids)).to(centroids.device, centroids.dtype)
        with torch.no_grad():
            found.centroids.copy_(centroids)
            found.set_covariance(covariance)
            found.logits.copy_(log_weights)
        return found

    def with_couplings(self, stacks, hidden, generator):
        """The same density with ``stacks`` couplings, which stand at the identity."""
        place = {"centre": self.centre.cpu(), "scale": self.scale.cpu()}
        found = MixtureFlow(self.dim, self.components, stacks=stacks, hidden=hidden, generator=generator, **place)
        found = found.to(self.centroids.device, self.centroids.dtype)
        found.load_state_dict(found.state_dict() | self.state_dict())
        return found

    def set_covariance(self, covariance):
        """Make ``covariance (dim, dim)`` the shared one, in latent units."""
        factor = torch.linalg.cholesky(torch.as_tensor(covariance).to(self.tril))
        with torch.no_grad():
            self.tril.copy_(factor.tril(-1) + factor.diagonal().log().diag())

    @property
    def factor(self):
        """Lower Cholesky factor of the shared covariance ``(dim, dim)``."""
        return self.tril.tril(-1) + self.tril.diagonal().exp().diag()

    @property
    def covariance(self):
        """The shared covariance ``(dim, dim)``, in latent units."""
        return self.factor @ self.factor.T

    @property
    def log_weights(self):
        """Normalised log-weights of the components ``(components,)``."""
        return self.logits.log_softmax(0)

    def _whitener(self):
        return torch.linalg.solve_triangular(self.factor, torch.eye(self.dim).to(self.tril), upper=False).T

    def _normaliser(self):
        return 0.5 * self.dim * math.log(2 * math.pi) + self.tril.diagonal().sum() + self.scale.log().sum()

    def latent(self, x):
        """Latent coordinates of ``x`` ``(n, dim)`` and the couplings' log-determinant ``(n,)``."""
        y, log_det = (x - self.centre) / self.scale, 0.0
        for coupling in reversed(self.flow):
            y, more = coupling.latent(y)
            log_det = log_det + more
        return y, log_det

    def observed(self, latent):
        """Data coordinates of latent points, both ``(n, dim)``."""
        for coupling in self.flow:
            latent = coupling.observed(latent)
        return latent * self.scale + self.centre

    def log_prob(self, x):
        """log p(x) ``(n,)`` in nats."""
        y, log_det = self.latent(x)
        whitener = self._whitener()
        z, c = y @ whitener, self.centroids @ whitener
        logits = torch.addmm(self.log_weights - 0.5 * c.square().sum(1), z, c.T)
        return logits.logsumexp(1) - 0.5 * z.square().sum(1) - self._normaliser() + log_det

    def energy(self, x):
        """E = -log p ``(n,)``, in nats.

        Equation: ``mixture-energy``
        """
        return -self.log_prob(x)

    def jet(self, x, directions, *, tables=False):
        """The jet ``(2 + m, n)`` of log p at ``x (n, dim)`` along ``directions (m, dim)``, differentiable once more.

        Args:
            tables: see :meth:`Coupling.latent_jet`.
        Equation: ``forward-laplacian``
        """
        jet = jets.start((x - self.centre) / self.scale, directions / self.scale)
        log_det = 0.0
        for coupling in reversed(self.flow):
            jet, more = coupling.latent_jet(jet, tables=tables)
            log_det = log_det + more
        whitener = self._whitener()
        jet, c = jet @ whitener, self.centroids @ whitener
        z, slopes, curve = jet[0], jet[1:-1], jet[-1]
        logits = torch.addmm(self.log_weights - 0.5 * c.square().sum(1), z, c.T)
        # posterior mean and second moment of the centroids: all that slopes and curvature need of the softmax
        features = torch.cat([c, (c[:, :, None] * c[:, None, :]).flatten(1)], 1)
        means, squares = (logits.softmax(1) @ features).split([self.dim, self.dim**2], 1)
        pull = means - z
        spread = torch.einsum("mni,nij,mnj->n", slopes, squares.unflatten(1, (self.dim, self.dim)), slopes)
        spread = spread - (slopes * means).sum(2).square().sum(0) - slopes.square().sum((0, 2))
        value = logits.logsumexp(1) - 0.5 * z.square().sum(1) - self._normaliser()
        return torch.cat([value[None], (slopes * pull).sum(2), ((pull * curve).sum(1) + spread)[None]]) + log_det

    def derivatives(self, x, *, probes=None, generator=None):
        """log-density, score and its divergence at ``x (n, dim)``: ``(n,)``, ``(n, dim)``, ``(n,)``, without a graph.

        Args:
            probes: number of random signs to estimate the divergence with (Hutchinson); exact without, up to
                ``MAX_EXACT_DIM`` axes.
        """
        if probes is None and self.dim <= MAX_EXACT_DIM:
            with torch.no_grad():
                jet = self.jet(x, torch.eye(self.dim).to(x), tables=True)
            return jet[0], jet[1:-1].T, jet[-1]
        return self._estimated(x.detach(), probes or 1, generator)

    def _estimated(self, x, probes, generator):
        with torch.enable_grad():
            x = x.requires_grad_()
            log_prob = self.log_prob(x)
            score = torch.autograd.grad(log_prob.sum(), x)[0]
        signs = torch.randint(2, (probes, self.dim), generator=generator).to(x) * 2 - 1
        with torch.no_grad():
            divergence = self.jet(x, signs, tables=True)[-1] / probes
        return log_prob.detach(), score, divergence

    def score(self, x):
        """grad log p ``(n, dim)``, without a graph."""
        return self.derivatives(x)[1]

    def sample(self, n, generator):
        """``n`` exact draws ``(n, dim)``; the generator is one of the CPU."""
        with torch.no_grad():
            chosen = torch.multinomial(self.log_weights.exp().cpu(), n, replacement=True, generator=generator)
            noise = torch.randn(n, self.dim, generator=generator, dtype=self.centroids.dtype).to(self.centroids)
            return self.observed(self.centroids[chosen.to(noise.device)] + noise @ self.factor.T)

    def centroids_observed(self):
        """Where the centroids lie in data space ``(components, dim)``."""
        with torch.no_grad():
            return self.observed(self.centroids)

    def cccp(self, x, temperature=1.0):
        """One step of the concave-convex procedure in latent space, seen in data space ``(n, dim)``.

        A step never raises the latent energy. The temperature widens the covariance and leaves the weights.

        Equation: ``cccp``
        """
        with torch.no_grad():
            whitener = self._whitener()
            c = self.centroids @ whitener
            z = self.latent(x)[0] @ whitener
            logits = self.log_weights + (z @ c.T - 0.5 * c.square().sum(1)) / temperature
            return self.observed(logits.softmax(1) @ self.centroids)

    def coefficients(self):
        """All coefficients of the couplings: zero at the start, where the flow is the identity."""
        parts = [coupling.coefficients.flatten() for coupling in self.flow]
        return torch.cat(parts) if parts else self.logits.new_zeros(0)

    def state(self):
        """Constructor arguments and weights, as plain values and tensors."""
        sizes = {"dim": self.dim, "components": self.components, "stacks": self.stacks, "hidden": self.hidden}
        return {"sizes": sizes, "weights": {name: value.cpu() for name, value in self.state_dict().items()}}

    @classmethod
    def from_state(cls, state):
        found = cls(**state["sizes"]).to(next(iter(state["weights"].values())).dtype)
        found.load_state_dict(state["weights"])
        return found
