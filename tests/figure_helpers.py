"""What every figure owes: captions that its facts fill, a picture, and a frame that holds all of it."""

import yaml
from workflow_helpers import ROOT

from snapdyn import artifacts, figures


def specified(paper):
    """The figures of a paper's configuration."""
    text = (ROOT / "config" / "papers" / f"{paper}.yaml").read_text()
    return yaml.safe_load(text)["papers"][paper]["figures"].values()


def check_drawn_from_its_frame(name, make, paper, style, folder):
    """Draw the figure function ``name`` from the files that ``make()`` gives, twice to the same frame."""
    arrange, draw = figures.FIGURES[name]
    frame, facts = arrange(make())
    specs = [spec for spec in specified(paper) if spec["function"] == f"figures.{name}"]
    assert specs, f"no figure of {paper} is drawn by {name}"
    for spec in specs:
        assert "{" not in spec["caption"].format(**facts)
    with style:
        artifacts.save_figure(draw(frame, style, facts), folder / name, frame)
    assert (folder / f"{name}.png").stat().st_size > 10_000
    back, _ = artifacts.read(folder / f"{name}.parquet", "figure/1")
    again, _ = arrange(make())
    assert back.equals(again.astype(back.dtypes)), "the same inputs must give the same frame"
