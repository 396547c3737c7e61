"""Cells to coordinates: raw counts through quality filters and PCA, or points that are embedded already.

Whatever is fitted here (gene filter, highly variable genes, components, whitening) sees train cells only.
"""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from snapdyn import clouds, tables
from snapdyn import times as timing

N_PCS = 5
FLAVORS = ("pearson_residuals", "seurat", "cell_ranger")


def points_snapshots(
    frame,
    *,
    dataset,
    seed,
    space,
    train=0.7,
    hold_out=None,
    axes=None,
    time_unit=None,
    times=None,
    source=None,
    where="the points",
):
    """Snapshots of a resource that is embedded already, its coordinates untouched.

    Args:
        frame: columns ``x0..``, and where they exist ``t``, ``row`` (source row) and ``weight``.
        dataset, seed, train: name; seed of the split; share of each time's rows to train on.
        hold_out: times to hold out whole, see :func:`snapdyn.clouds.assemble`.
        space: what the coordinates are, in words; ``axes``: their names, ``x0..`` if None.
        time_unit, times: see :func:`snapdyn.times.parse_times`.
        source: mapping for the metadata, such as the resource's checksum.
    Raises:
        DataError: with all faults at once.
    """
    columns = sorted((c for c in frame if c[:1] == "x" and c[1:].isdigit()), key=lambda c: int(c[1:]))
    timed = "t" in frame and frame["t"].notna().any()
    keys = {"time_key": "t" if timed else None, "weight_key": "weight" if "weight" in frame else None}
    table = tables.check_frame(frame, where=where, columns=columns, time_unit=time_unit, times=times, **keys)
    meta = {"dataset": dataset, "space": space, "source": source or {}, "notes": table.notes}
    row = frame["row"].to_numpy(np.int64) if "row" in frame else None
    return clouds.assemble(
        table.x,
        axes=axes or columns,
        times=table.times,
        weight=table.weight,
        row=row,
        meta=meta,
        seed=seed,
        train=train,
        hold_out=hold_out,
        where=where,
    )


def counts_snapshots(
    counts,
    genes,
    t,
    *,
    dataset,
    seed,
    train=0.7,
    hold_out=None,
    time_unit=None,
    times=None,
    weight=None,
    source=None,
    system=None,
    found=(),
    where="the counts",
    **options,
):
    """Snapshots of raw counts in principal components; the way back to genes is in ``meta["affine"]``.

    Args:
        counts: raw counts ``(n, n_genes)``, sparse or dense.
        genes: names ``(n_genes,)``.
        t: times or time labels ``(n,)`` (:func:`snapdyn.times.parse_times`), or Times; None for one cloud.
        dataset, seed, train: name; seed of the split; share of each time's cells to train on.
        hold_out: times to hold out whole, see :func:`snapdyn.clouds.assemble`.
        weight: ``(n,)`` or None.
        source, system: mappings for the metadata.
        found: faults of the source found so far, to be raised with those of the counts.
        where: the source's name, for the message.
        options: see :func:`embed_counts`.
    Returns:
        :class:`snapdyn.snapshots.Snapshots`; ``row`` is the cell's number in ``counts``.
    Raises:
        DataError: with all faults at once.
    """
    counts = csr(counts)
    n, found = counts.shape[0], [*found, *count_faults(counts, genes)]
    if t is not None and not isinstance(t, timing.Times):
        t = tables.times_of({"t": t}, "t", found, unit=time_unit, times=times)
    for what, values in (("times", None if t is None else t.values), ("weights", weight)):
        if values is not None and len(values) != n:
            found.append(f"expected one entry for each of {n} cells, got {len(values)} {what}")
    clouds.refuse(where, found)
    split = clouds.split_rows(n, t, train=train, seed=seed, hold_out=hold_out)
    x, kept, affine = embed_counts(counts, genes, train=split == "train", seed=seed, where=where, **options)
    meta = {
        "dataset": dataset,
        "space": f"principal components of {affine['from']}{', whitened' if 'scale' in affine else ''}",
        "affine": affine,
        "source": source or {},
        "notes": [f"{n - len(kept)} of {n} cells left out by the quality filters"] if len(kept) < n else [],
    }
    return clouds.assemble(
        x,
        axes=[f"PC {i + 1}" for i in range(x.shape[1])],
        times=None if t is None else replace(t, values=t.values[kept]),
        weight=None if weight is None else np.asarray(weight)[kept],
        row=kept,
        split=split[kept],
        meta=meta if system is None else {**meta, "system": system},
        seed=seed,
        train=train,
        hold_out=hold_out,
        where=where,
    )


def embed_counts(
    counts,
    genes,
    *,
    train,
    n_pcs=N_PCS,
    n_top_genes=2000,
    flavor="pearson_residuals",
    min_genes=200,
    min_cells=3,
    max_counts_quantile=None,
    target_sum=1e4,
    whiten=False,
    seed=0,
    where="the counts",
):
    """Filter, normalise, log1p, choose highly variable genes and project on principal components.

    Each cell's counts are scaled to ``target_sum`` over all genes measured, so that a stored transform
    applies to new cells. ``x = (log1p counts of the chosen genes - mean) @ matrix``, then divided by
    ``scale`` if whitened.

    Args:
        counts, genes: raw counts ``(n, n_genes)`` and names ``(n_genes,)``.
        train: mask ``(n,)`` of the cells that everything is fitted on.
        n_pcs: number of components. ``n_top_genes``: highly variable genes to keep; None keeps all.
        flavor: how these are chosen: ``"pearson_residuals"`` of the counts, or scanpy's ``"seurat"`` or
            ``"cell_ranger"``, whose bins by mean lose strong markers where only few genes are as strong.
        min_genes: cells with fewer detected genes are left out.
        min_cells: genes seen in fewer train cells are left out.
        max_counts_quantile: cells with more counts than this quantile of train cells are left out.
        target_sum: counts per cell after normalisation; None takes the median of the train cells.
        whiten: divide each component by its standard deviation over the train cells.
        seed: of the starting vector of the sparse eigensolver.
        where: the source's name, for the message.
    Returns:
        ``x (n_kept, n_pcs)``, the kept cells' indices ``(n_kept,)``, and the affine transform: a mapping
        with ``from, target_sum, genes, mean, matrix`` and, if whitened, ``shift, scale``.
    Raises:
        DataError: entries that are not raw counts; too few cells or genes left.
    """
    import scanpy as sc

    counts, train = csr(counts), np.asarray(train, dtype=bool)
    clouds.refuse(where, count_faults(counts, genes))
    genes, adata = unique_names(genes), _annotated(counts)
    total = np.asarray(counts.sum(axis=1)).ravel()
    keep = sc.pp.filter_cells(adata, min_genes=max(min_genes, 1), inplace=False)[0]
    if max_counts_quantile is not None and (keep & train).any():
        keep &= total <= np.quantile(total[keep & train], max_counts_quantile)
    kept, fitted = np.flatnonzero(keep), train[keep]
    seen = np.asarray((counts[keep & train] > 0).sum(axis=0)).ravel() >= max(min_cells, 1)
    cells, kept_genes = int(fitted.sum()), int(seen.sum())
    found, need = [], f"{n_pcs} components need more than {n_pcs}: lower the filters or n_pcs"
    if cells <= n_pcs:
        filters = f"min_genes={min_genes}, max_counts_quantile={max_counts_quantile}"
        found.append(f"{cells} of {int(train.sum())} train cells left after the filters ({filters}); {need}")
    if kept_genes <= n_pcs:
        found.append(f"{kept_genes} of {len(genes)} genes left after the filter (min_cells={min_cells}); {need}")
    if flavor not in FLAVORS:
        found.append(f"expected a flavor of {list(FLAVORS)}, got {flavor!r}")
    if n_top_genes is not None and n_top_genes <= n_pcs:
        found.append(f"n_top_genes={n_top_genes} is too few; {n_pcs} components need more than {n_pcs}")
    clouds.refuse(where, found)
    if target_sum is None:
        target_sum = float(np.median(total[keep & train]))
    logged = _log_normalised(counts[keep], target_sum)
    chosen = np.flatnonzero(seen)
    if n_top_genes is not None and n_top_genes < len(chosen):
        raw = counts[keep & train][:, chosen]
        chosen = chosen[_highly_variable(raw, logged[fitted][:, chosen], n_top_genes, flavor)]
    learnt = _annotated(logged[fitted][:, chosen])
    sc.pp.pca(learnt, n_comps=n_pcs, svd_solver="arpack", random_state=seed, dtype="float64")
    affine = {
        "from": f"log1p counts normalised to {target_sum:g} per cell",
        "target_sum": float(target_sum),
        "genes": [str(gene) for gene in genes[chosen]],
        "mean": np.asarray(learnt.X.mean(axis=0)).ravel().tolist(),
        "matrix": _fixed_signs(np.asarray(learnt.varm["PCs"], dtype=np.float64)).tolist(),
    }
    if whiten:
        spread = project(learnt.X, affine).std(axis=0)
        affine |= {"shift": np.zeros(n_pcs).tolist(), "scale": spread.tolist()}
    return project(logged[:, chosen], affine), kept, affine


def embed_with(counts, genes, affine):
    """Apply a stored transform to counts, or to mean expression, of other cells ``(n, n_genes)``.

    Args:
        genes: names ``(n_genes,)`` of all genes measured, in any order.
    Returns:
        positions ``(n, dim)``.
    Raises:
        DataError: genes of the transform that are not there.
    """
    where = {gene: i for i, gene in enumerate(unique_names(genes))}
    if absent := [gene for gene in affine["genes"] if gene not in where]:
        raise clouds.DataError(
            f"{len(absent)} of the {len(affine['genes'])} genes of the transform are not in the "
            f"counts, the first are {absent[:5]}; give counts of the same genes"
        )
    logged = _log_normalised(csr(counts), affine["target_sum"])
    return project(logged[:, [where[gene] for gene in affine["genes"]]], affine)


def project(logged, affine):
    """Positions ``(n, dim)`` of log1p levels ``(n, n_genes)`` of the transform's genes, sparse or dense."""
    matrix = np.asarray(affine["matrix"])
    shift, scale = _whitening(affine)
    return (np.asarray(logged @ matrix) - np.asarray(affine["mean"]) @ matrix - shift) / scale


def to_genes(x, affine):
    """Log1p levels ``(n, n_genes)`` of positions ``(n, dim)``, for the genes of the transform."""
    shift, scale = _whitening(affine)
    return velocity_to_genes(np.asarray(x) + shift / scale, affine) + np.asarray(affine["mean"])


def velocity_to_genes(v, affine):
    """Rates of log1p levels ``(n, n_genes)`` of velocities ``(n, dim)``; no offset enters."""
    return np.asarray(v) * _whitening(affine)[1] @ np.linalg.pinv(np.asarray(affine["matrix"]))


def count_faults(counts, genes):
    """Why ``counts`` are not raw counts of ``genes``, as sentences."""
    if counts.shape[1] != len(genes):
        return [f"expected one name for each gene, got {len(genes)} names for {counts.shape[1]} columns"]
    values = counts.data
    lost, negative = ~np.isfinite(values), values < 0
    broken = ~lost & ~negative & (values != np.round(values))
    if not (bad := lost | negative | broken).any():
        return []
    first = np.flatnonzero(bad)[0]
    cell = int(np.searchsorted(counts.indptr, first, side="right")) - 1
    kinds = {"negative": negative, "fractional": broken, "not finite": lost}
    listed = ", ".join(f"{int(mask.sum())} {kind}" for kind, mask in kinds.items() if mask.any())
    return [
        f"expected raw counts (whole numbers, 0 or more), got {int(bad.sum())} entries that are not "
        f"({listed}); the first is cell {cell}, gene {str(genes[counts.indices[first]])!r}: "
        f"{values[first]:g}. Name the layer that holds raw counts, or a basis that is embedded already"
    ]


def unique_names(names):
    """Names as text, repeats numbered as anndata does (``A, A-1``)."""
    from anndata.utils import make_index_unique

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_index_unique(pd.Index(np.asarray(names, dtype=object)).astype(str)).to_numpy(object)


def csr(matrix):
    """A sparse or dense matrix as canonical float64 CSR."""
    from scipy import sparse

    matrix = sparse.csr_matrix(matrix, dtype=np.float64)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # the caller's arrays stay as they are
        matrix.sum_duplicates()
    return matrix


def _annotated(matrix):
    import anndata

    return anndata.AnnData(matrix)


def _log_normalised(counts, target_sum):
    import scanpy as sc

    adata = _annotated(counts.copy())
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    return adata.X


def _highly_variable(counts, logged, n_top_genes, flavor):
    import scanpy as sc

    options = {"n_top_genes": n_top_genes, "flavor": flavor, "inplace": False}
    if flavor == "pearson_residuals":
        some = np.asarray(counts.sum(axis=1)).ravel() > 0
        table = sc.experimental.pp.highly_variable_genes(_annotated(counts[some]), **options)
    else:
        table = sc.pp.highly_variable_genes(_annotated(logged), **options)
    return table["highly_variable"].to_numpy()


def _whitening(affine):
    return np.asarray(affine.get("shift", 0.0)), np.asarray(affine.get("scale", 1.0))


def _fixed_signs(matrix):
    """Each component with its largest loading positive: eigensolvers leave the sign open."""
    largest = matrix[np.abs(matrix).argmax(axis=0), np.arange(matrix.shape[1])]
    return matrix * np.sign(largest)
