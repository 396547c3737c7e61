"""Rule ``fetch_resource``: a declaration in; where its files lie, checked, out."""

from snapdyn import run

with run.job(snakemake) as job:
    from pathlib import Path

    from snapdyn import artifacts, resources

    name = snakemake.wildcards.resource
    declared = resources.declare({name: snakemake.params.declaration})
    found = resources.locate(name, declared, [Path(folder) for folder in snakemake.params.folders])
    job.log.info("%s: %s", name, ", ".join(map(str, found.paths)))
    number = declared[name].forms.index(found.form)
    sums = [file.sha256 for file in found.form.files]
    paths = [str(Path(path).resolve()) for path in found.paths]
    artifacts.write_json({"form": number, "paths": paths, "sha256": sums}, snakemake.output[0])
