"""Rule ``page``: one analysis' results in, a page about them out."""

from snapdyn import run

with run.job(snakemake) as job:
    import json
    from pathlib import Path

    from snapdyn import artifacts, config, pages, plotting
    from snapdyn.snapshots import Snapshots

    fit = config.Fit(**snakemake.params.fit)
    cells = Snapshots.from_frame(*artifacts.read(snakemake.input.snapshots[0], "snapshots/1"))
    predicted = Snapshots.from_frame(*artifacts.read(snakemake.input.predicted[0], "snapshots/1"))
    metrics = artifacts.read(snakemake.input.metrics, "metrics/1")[0]
    parameters = artifacts.read(snakemake.input.parameters, "parameters/1")[0]
    answer = json.loads(Path(snakemake.input.verdict).read_text())
    field = [artifacts.read(path, "field/1") for path in snakemake.input.field[:1]]
    frame = pages.arrange(cells, predicted, metrics, parameters, *field)
    style = plotting.Style(snakemake.input.style, snakemake.input.colours)
    facts, path = pages.facts(fit, cells, answer), Path(snakemake.output.pdf).with_suffix("")
    with style:
        artifacts.save_figure(plotting.page(frame, style, facts), path, frame)
    artifacts.write_text(pages.text(fit, cells, metrics, parameters, answer, *field), snakemake.output.text)
