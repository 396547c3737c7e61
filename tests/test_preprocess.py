"""Counts to coordinates: against numpy's own decomposition, and nothing leaks from held-out cells."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from snapdyn import artifacts, preprocess

FILTERS = {"min_genes": 5, "min_cells": 2}


@pytest.fixture
def cells(rng):
    """90 cells of 40 genes at three times, along one strong and one weak programme."""
    t = np.repeat(["D0", "D2", "D10"], 30)
    along = np.repeat([0.0, 0.5, 1.0], 30)[:, None] * rng.normal(size=40)
    across = rng.normal(size=(90, 1)) * 0.4 * rng.normal(size=40)
    counts = rng.poisson(np.exp(1.0 + along + across))
    return sparse.csr_matrix(counts), np.array([f"g{i}" for i in range(40)], dtype=object), t


@pytest.fixture
def train():
    return np.arange(90) % 3 != 0


def logged(counts, target_sum):
    counts = counts.toarray().astype(float)
    return np.log1p(counts * target_sum / counts.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("whiten", [False, True])
def test_agrees_with_the_decomposition_of_the_train_cells(cells, train, whiten):
    counts, genes, _ = cells
    options = {"train": train, "n_pcs": 3, "n_top_genes": None, "target_sum": 500.0, "whiten": whiten}
    x, kept, affine = preprocess.embed_counts(counts, genes, **options, **FILTERS)
    g = logged(counts, 500.0)
    centred = g[train] - g[train].mean(axis=0)
    loadings = np.linalg.svd(centred, full_matrices=False)[2][:3].T
    loadings *= np.sign(loadings[np.abs(loadings).argmax(axis=0), range(3)])
    scores = (g - g[train].mean(axis=0)) @ loadings
    if whiten:
        scores /= scores[train].std(axis=0)
    np.testing.assert_array_equal(kept, np.arange(90))
    np.testing.assert_allclose(x, scores, atol=1e-9)
    assert affine["from"] == "log1p counts normalised to 500 per cell"


@pytest.mark.parametrize("whiten", [False, True])
def test_the_transform_gives_the_positions_and_leads_back_to_genes(cells, train, whiten):
    counts, genes, _ = cells
    options = {"train": train, "n_pcs": 4, "n_top_genes": 25, "whiten": whiten}
    x, _, affine = preprocess.embed_counts(counts, genes, **options, **FILTERS)
    affine = json.loads(json.dumps(affine))  # as it comes back from a file
    chosen = [list(genes).index(gene) for gene in affine["genes"]]
    assert len(chosen) == 25
    g = logged(counts, 1e4)[:, chosen]
    by_hand = (g - affine["mean"]) @ np.array(affine["matrix"])
    if whiten:
        by_hand = (by_hand - affine["shift"]) / affine["scale"]
    np.testing.assert_allclose(x, by_hand, atol=1e-8)
    shuffled = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(preprocess.embed_with(counts[:, shuffled], genes[shuffled], affine), x, atol=1e-8)
    back = preprocess.to_genes(x, affine)
    np.testing.assert_allclose(preprocess.project(back, affine), x, atol=1e-8)
    residual = g - back  # the nearest point of the plane: what is lost is orthogonal to it
    np.testing.assert_allclose(residual @ np.array(affine["matrix"]), 0, atol=1e-8)
    moved = preprocess.to_genes(x + 0.3 * x[::-1], affine) - back
    np.testing.assert_allclose(preprocess.velocity_to_genes(0.3 * x[::-1], affine), moved, atol=1e-8)


def test_all_components_lose_nothing(cells, train):
    counts, genes, _ = cells
    options = {"train": train, "n_pcs": 39, "n_top_genes": None, "min_genes": 1, "min_cells": 1}
    x, _, affine = preprocess.embed_counts(counts, genes, **options)
    lost = logged(counts, 1e4)[train] - preprocess.to_genes(x[train], affine)
    assert np.abs(lost).mean() < 0.05 * np.abs(logged(counts, 1e4)).mean()


@pytest.mark.parametrize("flavor", preprocess.FLAVORS)
def test_held_out_cells_do_not_touch_the_transform(cells, train, flavor):
    counts, genes, _ = cells
    options = {
        "flavor": flavor,
        "n_pcs": 3,
        "n_top_genes": 20,
        "max_counts_quantile": 0.95,
        "target_sum": None,
        **FILTERS,
    }
    _, _, first = preprocess.embed_counts(counts, genes, train=train, **options)
    other = counts.toarray()
    other[~train] = np.random.default_rng(5).poisson(9.0, size=(30, 40)) * np.arange(40)
    _, _, second = preprocess.embed_counts(other, genes, train=train, **options)
    assert first == second
    other[np.flatnonzero(train)[0]] = other[0]  # power: a train cell does
    assert preprocess.embed_counts(other, genes, train=train, **options)[2] != first


def test_is_deterministic_to_the_bit(cells, train):
    counts, genes, _ = cells
    runs = [preprocess.embed_counts(counts, genes, train=train, n_pcs=3, seed=4, **FILTERS) for _ in range(2)]
    assert runs[0][0].tobytes() == runs[1][0].tobytes()
    assert runs[0][2] == runs[1][2]
    other = preprocess.embed_counts(counts, genes, train=train, n_pcs=3, seed=5, **FILTERS)
    np.testing.assert_allclose(other[0], runs[0][0], atol=1e-8)  # the start does not move the answer


def test_does_not_change_the_callers_counts(cells, train):
    counts, genes, _ = cells
    before = counts.copy()
    preprocess.embed_counts(counts, genes, train=train, n_pcs=3, **FILTERS)
    assert (counts != before).nnz == 0
    assert counts.dtype == before.dtype


def test_filters_leave_out_cells_and_genes(cells, train):
    counts, genes, t = cells
    thin = counts.toarray()
    thin[[4, 50], 3:] = 0  # two cells with at most three genes
    thin[:, 7] = 0
    thin[0, 7] = 5  # a gene seen in one held-out cell only
    cloud = preprocess.counts_snapshots(thin, genes, t, dataset="d", seed=0, n_pcs=3, min_genes=4, min_cells=1)
    assert set(range(90)) - set(cloud.row) == {4, 50}
    assert cloud.meta["notes"][0] == "2 of 90 cells left out by the quality filters"
    _, kept, affine = preprocess.embed_counts(thin, genes, train=train, n_pcs=3, min_genes=4, min_cells=1)
    assert "g7" not in affine["genes"]
    thin[10] *= 1000
    _, kept, _ = preprocess.embed_counts(thin, genes, train=train, n_pcs=3, min_genes=4, max_counts_quantile=0.99)
    assert 10 not in kept


def test_says_what_the_filters_left(cells, train):
    counts, genes, _ = cells
    with pytest.raises(ValueError) as error:
        preprocess.embed_counts(counts, genes, train=train, n_pcs=5, min_genes=41, min_cells=100, n_top_genes=4)
    assert "0 of 60 train cells left after the filters (min_genes=41" in str(error.value)
    assert "0 of 40 genes left after the filter (min_cells=100)" in str(error.value)
    assert "5 components need more than 5: lower the filters or n_pcs" in str(error.value)
    assert "n_top_genes=4 is too few" in str(error.value)
    with pytest.raises(ValueError, match="expected a flavor of .*, got 'surat'"):
        preprocess.embed_counts(counts, genes, train=train, n_pcs=5, flavor="surat")


@pytest.mark.parametrize(("value", "kind"), [(-2.0, "negative"), (0.5, "fractional"), (np.nan, "not finite")])
def test_demands_raw_counts(cells, value, kind):
    counts, genes, t = cells
    wrong = counts.toarray().astype(float)
    wrong[8, 3], wrong[9, 0] = value, value
    with pytest.raises(ValueError) as error:
        preprocess.counts_snapshots(wrong, genes, t, dataset="d", seed=0, where="these cells")
    said = str(error.value)
    assert "cannot use these cells" in said
    assert f"got 2 entries that are not (2 {kind}); the first is cell 8, gene 'g3': {value:g}" in said
    assert "Name the layer that holds raw counts, or a basis" in said


def test_snapshots_of_counts(cells, tmp_path):
    counts, genes, t = cells
    cloud = preprocess.counts_snapshots(counts, genes, t, dataset="d", seed=2, n_pcs=3, whiten=True, **FILTERS)
    assert (cloud.dim, cloud.meta["time_unit"], cloud.meta["axes"]) == (3, "day", ["PC 1", "PC 2", "PC 3"])
    assert cloud.meta["space"] == "principal components of log1p counts normalised to 10000 per cell, whitened"
    np.testing.assert_array_equal(cloud.times, [0, 2, 10])
    np.testing.assert_allclose(cloud.x[cloud.split == "train"].std(axis=0), 1)
    assert [len(cloud.select(t=s, split="train")) for s in cloud.times] == [21, 21, 21]
    artifacts.write(cloud.frame(), tmp_path / "s.parquet", "snapshots/1", cloud.meta)
    _, meta = artifacts.read(tmp_path / "s.parquet", "snapshots/1")
    np.testing.assert_allclose(preprocess.embed_with(counts, genes, meta["affine"]), cloud.x, atol=1e-8)


def test_all_faults_of_counts_at_once(cells):
    counts, genes, _ = cells
    with pytest.raises(ValueError) as error:
        preprocess.counts_snapshots(-counts, genes, ["early"] * 45 + ["late"] * 45, dataset="d", seed=0)
    assert "cannot order the time labels" in str(error.value)
    assert "negative" in str(error.value)
    with pytest.raises(ValueError, match="expected one name for each gene, got 39 names for 40 columns"):
        preprocess.counts_snapshots(counts, genes[1:], None, dataset="d", seed=0)
    with pytest.raises(ValueError, match="expected one entry for each of 90 cells, got 2 times"):
        preprocess.counts_snapshots(counts, genes, [0, 1], dataset="d", seed=0)


def test_names_the_time_that_the_filters_emptied(cells):
    counts, genes, t = cells
    thin = counts.toarray()
    thin[30:60, 3:] = 0
    with pytest.raises(ValueError, match=r"fewer than 2 cells at D2 \(0\)"):
        preprocess.counts_snapshots(thin, genes, t, dataset="d", seed=0, n_pcs=3, min_genes=5)


def test_other_counts_must_have_the_genes(cells, train):
    counts, genes, _ = cells
    affine = preprocess.embed_counts(counts, genes, train=train, n_pcs=2, n_top_genes=None, **FILTERS)[2]
    with pytest.raises(ValueError, match=r"1 of the 40 genes of the transform .* \['g0'\]"):
        preprocess.embed_with(counts[:, 1:], genes[1:], affine)


def test_repeated_gene_names_are_told_apart(cells, train):
    counts, genes, _ = cells
    genes = genes.copy()
    genes[5] = "g4"
    x, _, affine = preprocess.embed_counts(counts, genes, train=train, n_pcs=2, n_top_genes=None, **FILTERS)
    assert "g4" in affine["genes"] and "g4-1" in affine["genes"]
    np.testing.assert_allclose(preprocess.embed_with(counts, genes, affine), x, atol=1e-8)


def test_points_are_left_as_they_are(rng):
    x = rng.normal(size=(40, 11))
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(11)])
    frame["t"], frame["row"] = np.repeat([0, 1], 20), np.arange(100, 140)
    frame = frame[sorted(frame)]  # x10 before x2
    options = {"dataset": "d", "seed": 0, "space": "somewhere", "time_unit": "day"}
    cloud = preprocess.points_snapshots(frame, **options)
    np.testing.assert_array_equal(cloud.x, x)
    np.testing.assert_array_equal(cloud.row, np.arange(100, 140))
    assert (cloud.meta["space"], cloud.meta["time_unit"]) == ("somewhere", "day")
    assert not preprocess.points_snapshots(frame.assign(t=np.nan), **options).timed
    frame.loc[3, "x10"] = np.nan
    with pytest.raises(ValueError, match="column 'x10' has 1 rows that are NaN or inf, the first is row 3"):
        preprocess.points_snapshots(frame, **options)


def test_ipsc_counts(snapdyn_resources):
    with np.load(snapdyn_resources / "ipsc_cardiomyocyte" / "counts_csr.npz", allow_pickle=False) as file:
        counts = sparse.csr_matrix((file["data"], file["indices"], file["indptr"]), shape=file["shape"])
        genes, day = file["genes"], file["day"]
    labels = [f"D{d}" for d in day]
    cloud = preprocess.counts_snapshots(counts, genes, labels, dataset="ipsc", seed=0, n_pcs=5, n_top_genes=2000)
    np.testing.assert_array_equal(cloud.times, [0, 6, 10, 30, 60])
    assert (len(cloud), cloud.meta["time_unit"], len(cloud.meta["affine"]["genes"])) == (315, "day", 2000)
    genes_kept = cloud.meta["affine"]["genes"]
    expression = logged(counts, 1e4)[:, [list(genes).index(gene) for gene in genes_kept]]
    centred = expression[cloud.split == "train"] - expression[cloud.split == "train"].mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)[:5]
    spread = cloud.x[cloud.split == "train"]
    np.testing.assert_allclose(np.sqrt((spread**2).sum(axis=0)), singular, rtol=1e-9)
    # biology: the heart's contractile genes rise along the course, in the map back to genes too
    back = preprocess.to_genes(cloud.x, cloud.meta["affine"])
    rise = {g: back[cloud.t == 60, i].mean() - back[cloud.t == 0, i].mean() for i, g in enumerate(genes_kept)}
    assert min(rise["TNNT2"], rise["MYH6"], rise["MYH7"]) > 0.5 and rise["LIN28A"] < -0.5


def test_embryoid_body_points(snapdyn_resources):
    there = pd.read_parquet(snapdyn_resources / "embryoid_body" / "pcs_5d.parquet")
    names = {"cell_row": "row", "time": "t"} | {f"z{i + 1}": f"x{i}" for i in range(5)}
    frame = there.rename(columns=names)
    options = {"dataset": "eb", "space": "5 PCs, z-scored", "train": 0.6, "time_unit": "window"}
    cloud = preprocess.points_snapshots(frame, seed=1, **options)
    rng = np.random.default_rng(1)  # the published one-step protocol, written out
    for t in range(5):
        rows = np.flatnonzero(there["time"] == t)
        chosen = rng.permutation(rows)[: int(0.6 * len(rows))]
        np.testing.assert_array_equal(np.sort(chosen), cloud.row[(cloud.t == t) & (cloud.split == "train")])
