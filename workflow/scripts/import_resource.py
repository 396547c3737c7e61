"""Rule ``import_resource``: a located resource in, snapshots out."""

from snapdyn import run

with run.job(snakemake) as job:
    import json
    from pathlib import Path

    from snapdyn import artifacts, preprocess, resources

    spec, seed = dict(snakemake.params.spec), snakemake.params.seed
    found = json.loads(Path(snakemake.input.resource).read_text())
    name, kind = spec.pop("resource"), spec.pop("kind")
    spec.pop("seeds")
    form = resources.declare({name: snakemake.params.declaration})[name].forms[found["form"]]
    content = resources.read(name, found["paths"], form)
    shared = {
        "dataset": snakemake.wildcards.dataset,
        "seed": seed,
        "source": {"resource": name, "sha256": found["sha256"]},
        "where": name,
    }
    if kind == "points":
        snapshots = preprocess.points_snapshots(content, **shared, **spec)
    else:
        counts = content["counts"], content["genes"], content["day"]
        snapshots = preprocess.counts_snapshots(*counts, **shared, **spec)
    for note in snapshots.meta["notes"]:
        job.log.warning(note)
    artifacts.write(snapshots.frame(), snakemake.output[0], "snapshots/1", snapshots.meta)
