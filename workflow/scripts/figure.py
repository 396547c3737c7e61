"""Rule ``figure``: tables in; one figure of a paper and the frame that it plots out."""

from snapdyn import run

with run.job(snakemake) as job:
    from pathlib import Path

    from snapdyn import artifacts, figures, plotting

    arrange, draw = figures.FIGURES[snakemake.params.spec["function"].split(".")[1]]
    files = {name: path for name, path in snakemake.input.items() if name not in ("code", "method", "style", "colours")}
    frame, facts = arrange(figures.read(files))
    style = plotting.Style(snakemake.input.style, snakemake.input.colours)
    meta = {
        "caption": snakemake.params.spec["caption"].format(**facts),
        "equations": snakemake.params.spec["equations"],
    }
    with style:
        artifacts.save_figure(draw(frame, style, facts), Path(snakemake.output.pdf).with_suffix(""), frame, meta)
