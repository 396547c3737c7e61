"""AnnData files: an existing basis or raw counts in, clear refusals, the file itself untouched."""

import hashlib
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from snapdyn import h5ad

OPTIONS = {"dataset": "mine", "seed": 0, "time_key": "day"}
COUNTING = {"n_pcs": 3, "min_genes": 5, "min_cells": 2}


@pytest.fixture
def adata(rng):
    counts = rng.poisson(np.exp(1.0 + np.repeat([0, 0.5, 1], 20)[:, None] * rng.normal(size=30)))
    made = anndata.AnnData(
        sparse.csr_matrix(np.log1p(counts).astype(np.float32)),
        obs=pd.DataFrame(
            {"day": pd.Categorical(np.repeat(["D0", "D2", "D10"], 20)), "w": 1.0, "batch": "b"},
            index=[f"cell-{i}" for i in range(60)],
        ),
        var=pd.DataFrame(index=[f"g{i}" for i in range(30)]),
        layers={"counts": sparse.csr_matrix(counts), "dense": counts.astype(np.float32)},
        obsm={"X_scvi": rng.normal(size=(60, 4)), "X_umap": rng.normal(size=(60, 2)).astype(np.float32)},
    )
    made.raw = anndata.AnnData(sparse.csr_matrix(counts), var=made.var)
    return made


@pytest.fixture
def save(tmp_path):
    def save(adata, name="cells.h5ad"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return save


def refusal(path, **options):
    with pytest.raises(ValueError) as error:
        h5ad.h5ad_snapshots(path, **{**OPTIONS, **options})
    return str(error.value)


def test_an_existing_basis_is_used_as_it_is(adata, save):
    path = save(adata)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    cloud = h5ad.h5ad_snapshots(path, basis="X_scvi", weight_key="w", **OPTIONS)
    np.testing.assert_array_equal(cloud.x, adata.obsm["X_scvi"])
    np.testing.assert_array_equal(cloud.t, np.repeat([0.0, 2, 10], 20))
    np.testing.assert_array_equal(cloud.row, np.arange(60))
    assert cloud.meta["axes"] == ["scvi 1", "scvi 2", "scvi 3", "scvi 4"]
    assert (cloud.meta["time_unit"], cloud.meta["space"]) == ("day", "X_scvi of cells.h5ad, as it is")
    assert cloud.meta["source"]["sha256"] == before == hashlib.sha256(path.read_bytes()).hexdigest()
    fewer = h5ad.h5ad_snapshots(path, basis="X_scvi", n_pcs=2, **OPTIONS)
    np.testing.assert_array_equal(fewer.x, adata.obsm["X_scvi"][:, :2])
    assert fewer.meta["notes"] == ["the first 2 of 4 columns of X_scvi"]


@pytest.mark.parametrize("layer", ["counts", "dense", "raw"])
def test_counts_from_wherever_they_are(adata, save, layer):
    path = save(adata)
    before = path.read_bytes()
    cloud = h5ad.h5ad_snapshots(path, layer=layer, **OPTIONS, **COUNTING)
    there = h5ad.h5ad_snapshots(path, layer="counts", **OPTIONS, **COUNTING)
    np.testing.assert_array_equal(cloud.x, there.x)
    assert (cloud.dim, cloud.meta["source"]["layer"]) == (3, layer)
    assert path.read_bytes() == before


def test_counts_in_x(adata, save):
    adata.X = adata.layers["counts"]
    assert h5ad.h5ad_snapshots(save(adata), **OPTIONS, **COUNTING).dim == 3


def test_numeric_times_and_one_cloud(adata, save):
    adata.obs["day"] = pd.Categorical(np.repeat([0, 2.5, 7], 20))
    path = save(adata)
    cloud = h5ad.h5ad_snapshots(path, basis="X_umap", time_unit="week", **OPTIONS)
    assert (list(cloud.times), cloud.meta["time_unit"]) == ([0.0, 2.5, 7.0], "week")
    assert not h5ad.h5ad_snapshots(path, basis="X_umap", **{**OPTIONS, "time_key": None}).timed


def test_a_frame_in_obsm_keeps_its_names(adata, save):
    adata.obsm["traits"] = pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names, columns=["size", "age"])
    assert h5ad.h5ad_snapshots(save(adata), basis="traits", **OPTIONS).meta["axes"] == ["size", "age"]


def test_repeated_cell_names_do_no_harm(adata, save):
    adata.obs_names = ["same"] * 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(h5ad.h5ad_snapshots(save(adata), basis="X_scvi", **OPTIONS)) == 60


def test_names_what_is_not_there_all_at_once(adata, save):
    said = refusal(save(adata), time_key="Days", weight_key="weight", layer="count")
    assert "no column of obs 'Days'; did you mean 'day'?; there are day, w, batch" in said
    assert "no column of obs 'weight'; there are" in said
    assert "no layer 'count'; did you mean 'counts'?; there are X, raw, counts, dense" in said
    said = refusal(save(adata), basis="scvi")
    assert "no basis in obsm 'scvi'; did you mean 'X_scvi'?; there are X_scvi, X_umap" in said


def test_refuses_labels_that_cannot_be_ordered(adata, save):
    adata.obs["day"] = pd.Categorical(np.repeat(["early", "mid", "late"], 20))
    path = save(adata)
    said = refusal(path, basis="X_scvi")
    assert "time_key 'day': cannot order the time labels ['early', 'mid', 'late']" in said
    assert "a mapping `times: {label: number}`" in said
    cloud = h5ad.h5ad_snapshots(path, basis="X_scvi", times={"early": 0, "mid": 3, "late": 9}, **OPTIONS)
    assert list(cloud.times) == [0, 3, 9]


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_demands_raw_counts(adata, save, shift):
    adata.X = adata.X.toarray() + shift
    said = refusal(save(adata), **COUNTING)
    assert "expected raw counts (whole numbers, 0 or more), got" in said
    assert ("negative" if shift else "fractional") in said
    assert "the first is cell 0, gene 'g" in said


def test_refuses_a_basis_with_nan_and_lonely_cells(adata, save):
    adata.obsm["X_scvi"][[5, 9]] = np.nan
    said = refusal(save(adata), basis="X_scvi", weight_key="batch")
    assert "basis 'X_scvi' has 2 cells that are NaN or inf, the first is cell 5" in said
    assert "column 'batch' has 60 rows of text" in said
    lonely = adata[np.r_[0:20, 20, 40:60]].copy()
    assert "fewer than 2 cells at D2 (1)" in refusal(save(lonely), basis="X_umap")


def test_a_file_must_be_what_its_name_says(tmp_path, save, adata):
    (tmp_path / "text.h5ad").write_text("a,b\n1,2\n")
    assert "text.h5ad is not an HDF5 file" in refusal(tmp_path / "text.h5ad")
    assert "no such file" in refusal(tmp_path / "none.h5ad")
    for basis in (None, "X_scvi"):
        with h5py.File(tmp_path / "other.h5ad", "w") as file:
            file["values"] = np.arange(3)
        assert "HDF5 but not a readable AnnData file" in refusal(tmp_path / "other.h5ad", basis=basis)
    path = save(adata)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "not a readable AnnData file" in refusal(path)
