"""AnnData files: read into snapshots, never written to."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from snapdyn import clouds, preprocess, tables


def h5ad_snapshots(
    path,
    *,
    dataset,
    seed,
    time_key=None,
    layer="X",
    basis=None,
    n_pcs=None,
    weight_key=None,
    train=0.7,
    hold_out=None,
    time_unit=None,
    times=None,
    **options,
):
    """Snapshots of an AnnData file, which is only read: an existing embedding, or its counts through PCA.

    Args:
        dataset, seed, train: name; seed of the split; share of each time's cells to train on.
        hold_out: times to hold out whole, see :func:`snapdyn.clouds.assemble`.
        time_key: column of ``obs``; None says that the cells are one stationary cloud.
        layer: where the raw counts are: ``"X"``, ``"raw"`` or a name in ``layers``.
        basis: name in ``obsm`` of coordinates to use as they are instead of ``layer``.
        n_pcs: number of components (5 from counts), or of leading columns of ``basis`` (all).
        weight_key: column of ``obs`` with weights, 0 or more.
        time_unit, times: see :func:`snapdyn.times.parse_times`.
        options: see :func:`snapdyn.preprocess.embed_counts`.
    Returns:
        :class:`snapdyn.snapshots.Snapshots`; ``row`` is the cell's position in the file.
    Raises:
        DataError: with all faults at once.
    """
    adata = _open_h5ad(path, backed=basis is not None)
    try:
        obs, found = adata.obs, []
        for key in (time_key, weight_key):
            if key is not None and key not in obs:
                found.append(tables.missing("column of obs", key, obs.columns))
        t = tables.times_of(obs, time_key, found, unit=time_unit, times=times) if time_key in obs else None
        weight = tables.weights_of(obs, weight_key, found) if weight_key in obs else None
        source = {"file": Path(path).name, "sha256": tables.checksum(path), "time_key": time_key}
        shared = {"weight": weight, "seed": seed, "train": train, "hold_out": hold_out}
        shared |= {"found": found, "where": str(path)}
        if basis is None:
            counts, genes = _layer(adata, layer, found)
            options |= {} if n_pcs is None else {"n_pcs": n_pcs}
            source["layer"] = layer
            return preprocess.counts_snapshots(counts, genes, t, dataset=dataset, source=source, **shared, **options)
        x, axes, notes = _basis(adata, basis, n_pcs, found)
        space = f"{basis} of {Path(path).name}, as it is"
        meta = {"dataset": dataset, "space": space, "source": {**source, "basis": basis}, "notes": notes}
        return clouds.assemble(x, axes=axes, times=t, meta=meta, **shared)
    finally:
        if adata.isbacked:
            adata.file.close()


def _open_h5ad(path, *, backed):
    import anndata
    import h5py

    if not Path(path).is_file():
        raise clouds.DataError(f"{path}: no such file; expected an AnnData .h5ad file")
    if not h5py.is_hdf5(path):
        raise clouds.DataError(f"{path} is not an HDF5 file, whatever its name says; expected an AnnData .h5ad file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # repeated cell or gene names do no harm here
            return anndata.read_h5ad(path, backed="r" if backed else None)
    except Exception as error:  # anndata raises many kinds for an HDF5 file that is not its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise clouds.DataError(f"{path} is HDF5 but not a readable AnnData file ({reason})") from None


def _layer(adata, layer, found):
    from scipy import sparse

    there = [
        *(["X"] if adata.X is not None else []),
        *(["raw"] if adata.raw is not None else []),
        *adata.layers,
    ]
    if layer not in there:
        found.append(tables.missing("layer", layer, there))
        return sparse.csr_matrix((adata.n_obs, 0)), []
    if layer == "raw":
        return preprocess.csr(adata.raw.X), adata.raw.var_names
    return preprocess.csr(adata.X if layer == "X" else adata.layers[layer]), adata.var_names


def _basis(adata, basis, n_pcs, found):
    """Columns of an ``obsm``, their names, and a note if not all are taken."""
    from scipy import sparse

    if basis not in adata.obsm:
        found.append(tables.missing("basis in obsm", basis, adata.obsm))
        return np.empty((adata.n_obs, 0)), [], []
    x = adata.obsm[basis]
    names = [f"{basis.removeprefix('X_')} {i + 1}" for i in range(x.shape[1])]
    if isinstance(x, pd.DataFrame):
        x, names = x.to_numpy(), [str(name) for name in x.columns]
    x = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)[:, :n_pcs]
    if (bad := ~np.isfinite(x).all(axis=1)).any():
        found.append(
            f"basis {basis!r} has {bad.sum()} cells that are NaN or inf, the first is cell "
            f"{np.flatnonzero(bad)[0]}; leave those cells out of the file"
        )
    cut = [f"the first {x.shape[1]} of {len(names)} columns of {basis}"] if x.shape[1] < len(names) else []
    return x, names[: x.shape[1]], cut
