"""Rule ``import_own``: the user's table or AnnData file in, snapshots out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, h5ad, tables

    spec = {key: value for key, value in snakemake.params.spec.items() if value is not None}
    path, kind = spec.pop("path"), spec.pop("kind")
    read = {"table": tables.table_snapshots, "h5ad": h5ad.h5ad_snapshots}[kind]
    snapshots = read(path, dataset=snakemake.wildcards.dataset, seed=snakemake.params.seed, **spec)
    for note in snapshots.meta["notes"]:
        job.log.warning(note)
    artifacts.write(snapshots.frame(), snakemake.output[0], "snapshots/1", snapshots.meta)
