"""The table of methods: what each needs, what it gives and which options it takes. Imports nothing of the package."""

from dataclasses import dataclass, field

KERNEL = {
    "bandwidth": "a number, one per axis, or density | score | divergence | wide | likelihood",
    "probes": "how many data points the equation is checked at",
}
TESTS = {
    "tests": "test functions: monomials | gaussians | mixed | phases (for drifts with rotating drivers)",
    "degree": "highest degree of the test monomials",
    "harmonics": "highest angular mode of `phases`",
    "count": "how many `gaussians`",
    "width": "their width, in standard deviations of each axis",
    "growth": "birth rate of timed populations: {terms: {name: expression}, known: expression}",
    "iterations": "re-weighting steps",
}
OPTIMISER = {
    "starts": "random starting points",
    "low": "lower end of the starts, every coefficient",
    "high": "upper end of the starts",
    "rate": "first step size; falls linearly to 0",
    "batch": "probing points a step",
    "epochs": "passes over the probing points",
}


@dataclass(frozen=True)
class Method:
    """One line of the table of methods.

    Attributes:
        target: ``module:Class`` in snapdyn.
        data: ``stationary``, ``timed``, ``either`` of them, or ``trajectories``.
        does: one sentence for the table in the README.
        options: what the config may set, with a word on each.
        fixed: constructor arguments that make this method of its class.
        gives: ``drift``; ``energy``, whose methods train many courses as one program; or ``density``, whose methods
            take a drift library only to read its coefficients off the density, or to learn from a complete one.
        takes_drift: can use a drift library and a diffusivity; methods that give a drift need them.
        complete_drift: needs a drift without unknown numbers, and a diffusivity.
        joint_diffusivity: accepts ``diffusivity: unknown``.
        matrix_diffusivity: accepts a matrix.
        most_axes: how many dimensions it can work in, with its default options; any without.
        in_all: whether ``methods: all`` takes it, where it fits.
    """

    target: str
    data: str
    does: str
    options: dict = field(default_factory=dict)
    fixed: dict = field(default_factory=dict)
    gives: str = "drift"
    takes_drift: bool = True
    complete_drift: bool = False
    joint_diffusivity: bool = False
    matrix_diffusivity: bool = False
    most_axes: int | None = None
    in_all: bool = True

    @property
    def module(self):
        return self.target.split(":")[0]

    def learns_from_dynamics(self, options=None):
        """Whether it needs a complete drift, with these options."""
        return self.complete_drift or (options or {}).get("training") == "dynamics"


FLOW = {
    "components": "how many Gaussians",
    "stacks": "how many couplings; 0 is a plain mixture",
    "hidden": "width of the couplings' networks",
    "start": "where the centroids start: data | box; with dynamics linear-draws | linear | box | simulation",
    "steps": "optimiser steps of the mixture, which comes first",
    "flow_steps": "further ones of mixture and couplings",
    "batch": "points a step",
    "rate": "largest step size",
    "patience": "looks without a better validation loss before it stops",
    "validation": "share of the training rows that decide when to stop",
    "penalty": "weight of the couplings' absolute coefficients",
    "share": "weight of score matching beside likelihood",
    "noise": "of denoising score matching, in standard deviations; 0 for the implicit form",
    "loss": "of dynamics: weighted-square | equation-square | weighted | detached | plain (the paper's)",
    "box": "[[low, high], ..] that holds all states; the data's range with margin if not given",
    "dt": "step of the simulation that a start needs",
    "burn": "its length",
}
OF_TRAINING = {  # options that only some trainings take
    "dynamics": ("loss", "box", "dt", "burn"),
    "mle": (),
    "score-matching": ("noise",),
    "combined": ("share",),
}


def _flow(does, training=None, **fixed):
    """The density estimator, with its training fixed or free."""
    only = {name for names in OF_TRAINING.values() for name in names} - set(OF_TRAINING.get(training, FLOW))
    unused = {"patience", "validation"} if training == "dynamics" else set()
    takes = {name: text for name, text in FLOW.items() if name not in only | unused | set(fixed)}
    if fixed.get("start") == "box":
        takes = {name: text for name, text in takes.items() if name not in ("dt", "burn")}
    if training is None:
        takes = {"training": "dynamics | mle | score-matching | combined"} | FLOW
    return Method(
        "mixture_flow:MixtureFlow",
        "stationary" if training == "dynamics" else "either",
        does,
        takes,
        ({"training": training} if training else {}) | fixed,
        gives="density",
        complete_drift=training == "dynamics",
        matrix_diffusivity=training in (None, "dynamics"),
        in_all=training is None,
    )


def _kernel(solver, convolved, does):
    extra = OPTIMISER if solver == "adam" else {}
    return Method(
        "fokker_planck:KernelMethod",
        "stationary",
        does,
        KERNEL | extra,
        {"solver": solver, "convolved": convolved},
    )


ENERGY = {
    "hidden": "widths of the networks' hidden layers",
    "steps": "optimiser steps, at most",
    "batch": "rows of each snapshot a step",
    "rate": "step size",
    "validation": "share of the training rows that only decide when to stop; 0 trains all steps",
    "step": "how the model predicts: implicit (as energies are fitted) | explicit",
    "between": "times inside a gap: scheme (one step of its part) | line (on the way to its end)",
}
SHRINK = {"shrink": "whether the force is scaled down to what two halves of the rows agree on; three times the work"}
TERMS = {"terms": "of potential, interaction, entropy"}
PLAY = {
    "average": "decay of the running mean of the weights, which is what is returned",
    "clip": "largest norm of a gradient",
    "every": "steps between two looks at the validation rows",
    "patience": "looks without a better one before it stops",
}
GAME = PLAY | {
    "inner": "steps of the maps for each step of the energy",
    "map_rate": "step size of the maps",
    "pairs": "partners of each point in the estimate of an interaction",
}
TIME = {"timed": "whether the potential depends on time"}
SOLVED = PLAY | TIME | {"inner": "Newton steps a batch, at most", "tolerance": "residual at which a row is done"}
PLANS = {
    "gradient_at": "target (the implicit step) | source (the explicit one)",
    "blur": "entropy of the plans, as a share of the variance of the data's axes; 0 for exact ones",
    "block": "particles of a plan; all at once if not given",
    "unbalanced": "for populations that grow: price of changing weights, as a share of the variance; null for none",
    "weights": "what prior weights mean: mass, wherever a row stands | growth, its descendants at the next time",
    "score": "of snapshots, which the entropy needs: mixture | kernel",
}
SUBSTEPS = {"substeps": "steps of the energy between two observed times; held-out times are then on the way"}
PAIRS = PLANS | PLAY | SUBSTEPS | {"fall": "whether the step size falls to 0 by the last step"}
FEATURES = {
    "ridge": "penalty on the coefficients, or `validation` to let rows held back choose",
    "degree": "highest power of a coordinate in the monomials",
    "grid": "Gaussians along each axis",
    "width": "of the Gaussians: exp(-|x - c|^2 / width), where the box is [-4, 4] along each axis",
    "box": "[low, high] that their grid covers, in the user's coordinates; the data's range if not given",
}
SOURCE = ("gradient_at",)  # what the names of these methods say already
BILEVEL = {
    "inner": "steps of the maps for each step of the potential, each time from a fresh start",
    "map_rate": "step size of the maps",
    "epsilon": "entropy of the transport cost, as a share of the variance of the data's axes",
    "debiased": "whether that cost is less what both clouds cost to themselves (the paper's is not)",
    "teacher_forcing": "whether each step starts at the observed snapshot, or (false) where the step before led",
    "gradient": "unrolled (through all steps of the maps) | implicit (as if they were solved: cheaper)",
    "clip": PLAY["clip"],
    "every": PLAY["every"],
    "patience": PLAY["patience"],
}


def _energy(target, does, options=(), without=(), *, in_all=False, most_axes=None, **fixed):
    """A method that learns an energy; terms and time dependence may be fixed by its name."""
    alone = fixed.get("terms", ("potential",)) == ("potential",)
    takes = ENERGY | (SHRINK if alone else {}) | dict(options)
    takes = {name: text for name, text in takes.items() if name not in without}
    kind = {"gives": "energy", "takes_drift": False, "in_all": in_all, "most_axes": most_axes}
    return Method(target, "timed", does, takes, fixed, **kind)


EVERYTHING = ("potential", "interaction", "entropy")

METHODS = {
    "kde-adam": _kernel("adam", False, "plain kernel score, the paper's optimiser (biased; for comparison)"),
    "kde-l1": _kernel("l1", False, "plain kernel score, exact L1 minimum (biased; for comparison)"),
    "kde-lstsq": _kernel("lstsq", False, "plain kernel score, closed form (biased; for comparison)"),
    "convolved-l1": _kernel("l1", True, "convolved equation, exact L1 minimum: no bandwidth bias"),
    "convolved-lstsq": _kernel("lstsq", True, "convolved equation, closed form: no bandwidth bias"),
    "moments": Method(
        "moments:Moments",
        "either",
        "optimally weighted moments: any affine drift, standard errors, a test of the model",
        TESTS,
        {"sparse": False, "threshold": None},
        joint_diffusivity=True,
        matrix_diffusivity=True,
    ),
    "moments-sparse": Method(
        "moments:Moments",
        "either",
        "the same, then drops terms of the library that are not needed, weakest first",
        TESTS | {"threshold": "a term stays if it exceeds this many standard errors"},
        {"sparse": True},
        joint_diffusivity=True,
        matrix_diffusivity=True,
    ),
    "kds": Method(
        "kds:KernelDeviation",
        "stationary",
        "kernel deviation from stationarity (KDS), exact minimum over pairs of points",
        {
            "bandwidth": KERNEL["bandwidth"],
            "statistic": "u (pairs of different points) or v (all pairs: biased, but always a minimum)",
            "points": "at most this many rows, drawn at random, since the cost is quadratic",
        },
    ),
    "affine-propagation": Method(
        "propagation:AffinePropagation",
        "timed",
        "linear drift and diffusivity between snapshots, carried exactly over any gap; standard errors",
        {"restarts": "starting points of the optimiser"},
        takes_drift=False,
    ),
    "sindy": Method(
        "trajectories:SparseRegression",
        "trajectories",
        "sparse regression of forward differences (SINDy, by pysindy): sees time, for reference",
        {
            "threshold": "smaller coefficients are set to 0; 0 keeps all",
            "ridge": "penalty on squared coefficients while thresholding",
            "order": "order of the forward difference, 1 or 2",
        },
    ),
    "gaussian-mixture": Method(
        "density_methods:GaussianMixture",
        "either",
        "density: Gaussian mixture, a covariance for each component, by EM (scikit-learn)",
        {"components": "how many; the smallest BIC decides where it is not given"},
        gives="density",
    ),
    "kde": Method(
        "density_methods:KernelDensity",
        "either",
        "density: a Gaussian kernel around every training row",
        {"bandwidth": KERNEL["bandwidth"]},
        gives="density",
    ),
    "hopfield": Method(
        "hopfield:Hopfield",
        "either",
        "density of a Hopfield network whose patterns are training rows (for comparison)",
        {
            "patterns": "how many training rows are stored",
            "inverse_temperature": "in units of the cloud's spread; chosen by other training rows if not given",
        },
        gives="density",
    ),
    "mixture-flow": _flow("density: latent Gaussian mixture with couplings (RealNVP), any of its four trainings"),
    "mixture-flow-dynamics": _flow("the same, from a known drift and its diffusivity alone", "dynamics"),
    "mixture-flow-plain": _flow(
        "the same by the paper's loss, which loses mass (for comparison)", "dynamics", loss="plain", start="box"
    ),
    "mixture-flow-mle": _flow("the same, by likelihood", "mle"),
    "mixture-flow-sm": _flow("the same, by score matching", "score-matching"),
    "mixture-flow-mle-sm": _flow("the same, by likelihood and score matching together", "combined"),
    "linear-mixture": Method(
        "linear_mixture:LinearMixture",
        "stationary",
        "density from a known drift: Gaussians on a grid, weights by non-negative least squares (reference)",
        {"box": FLOW["box"], "width": "of the finest Gaussians, in the user's units; one number or one per axis"},
        gives="density",
        complete_drift=True,
        matrix_diffusivity=True,
        most_axes=3,
    ),
    "ijkonet": _energy(
        "ijkonet:IJKOnet", "energy by min-max (iJKOnet): potential, interaction, entropy", GAME, terms=EVERYTHING
    ),
    "ijkonet-v": _energy("ijkonet:IJKOnet", "the same, potential only", GAME),
    "ijkonet-tv": _energy(
        "ijkonet:IJKOnet", "the same, a potential that depends on time", GAME, in_all=True, timed=True
    ),
    "ijkonet-w": _energy("ijkonet:IJKOnet", "the same, interaction only", GAME, terms=("interaction",)),
    "ijkonet-vw": _energy(
        "ijkonet:IJKOnet", "the same, potential and interaction", GAME, terms=("potential", "interaction")
    ),
    "ijkonet-prox": _energy(
        "ijkonet_prox:IJKOnetProx",
        "potential by the same objective, its inner problem solved for each row",
        SOLVED,
    ),
    "ijkonet-prox-shrunk": _energy(
        "ijkonet_prox:IJKOnetProx",
        "the same, its force scaled down to what two halves of the rows agree on",
        SOLVED,
        ("shrink",),
        shrink=True,
    ),
    "jkonet-star": _energy(
        "jkonet_star:JKOnetStar",
        "energy from optimal pairs (JKOnet*): potential, interaction, entropy",
        PAIRS,
        terms=EVERYTHING,
    ),
    "jkonet-star-v": _energy("jkonet_star:JKOnetStar", "the same, potential only", PAIRS),
    "jkonet-star-v-shrunk": _energy(
        "jkonet_star:JKOnetStar",
        "the same, its force scaled down to what two halves of the rows agree on",
        PAIRS,
        ("shrink",),
        shrink=True,
    ),
    "jkonet-star-v-unbalanced": _energy(
        "jkonet_star:JKOnetStarUnbalanced",
        "the same for populations that grow: plans may change the sources' weights",
        PAIRS,
    ),
    "jkonet-star-vu": _energy(
        "jkonet_star:JKOnetStar", "from optimal pairs: potential and entropy", PAIRS, terms=("potential", "entropy")
    ),
    "jkonet-star-tv": _energy(
        "jkonet_star:JKOnetStar", "the same, a potential that depends on time", PAIRS, in_all=True, timed=True
    ),
    "jkonet-star-v-source": _energy(
        "jkonet_star:JKOnetStar",
        "potential only, with its force at the source: explicit steps",
        PAIRS,
        SOURCE,
        gradient_at="source",
    ),
    "jkonet-star-tv-source": _energy(
        "jkonet_star:JKOnetStar",
        "the same, with a potential that depends on time",
        PAIRS,
        SOURCE,
        gradient_at="source",
        timed=True,
    ),
    "jkonet-star-tv-flow": _energy(
        "jkonet_star:JKOnetStar",
        "the same in several steps from one observed time to the next, for times in between",
        PAIRS,
        (*SOURCE, "substeps"),
        in_all=True,
        gradient_at="source",
        substeps=4,
        timed=True,
    ),
    "jkonet-star-linear": _energy(
        "jkonet_linear:JKOnetLinear",
        "the same condition, linear in features: one ridge solution",
        TERMS | PLANS | FEATURES,
        without=("hidden", "steps", "batch", "rate"),
        most_axes=3,
    ),
    "jkonet-star-linear-source": _energy(
        "jkonet_linear:JKOnetLinear",
        "the same, with its force at the source: explicit steps",
        TERMS | PLANS | FEATURES,
        ("hidden", "steps", "batch", "rate", *SOURCE),
        most_axes=3,
        gradient_at="source",
    ),
    "jkonet": _energy(
        "jkonet:JKOnet",
        "potential by bilevel training with input-convex maps (JKOnet; slow, for comparison)",
        BILEVEL | TIME,
    ),
}
