"""Cost against the number of states, from the growth cases of the benchmark's parquet.

    python tests/bench/plot.py results/bench/benchmark.parquet

Draws growth.png beside the parquet. The suite does so itself whenever it has measured a growth case.
"""

import argparse
from pathlib import Path

import numpy as np

SHEET = Path(__file__).parents[2] / "workflow" / "snapdyn" / "paper.mplstyle"
LOOKS = {  # path: colours and markers of its settings, in the order of the rows
    "moments-growth": [("#5aae61", "D"), ("#1b7837", "s")],
    "kde-growth": [("#2166ac", "o")],
}
LABELS = {"moments-growth": "moments", "kde-growth": "kernel pass"}
SIZE = "N = "  # what the variants of a growth case are called by


def growth_rows(frame):
    """The measured rows of all growth cases, with their N as a number in ``size``."""
    rows = frame[frame["path"].isin(LOOKS) & (frame["status"] == "measured")]
    return rows.assign(size=rows["variant"].str.removeprefix(SIZE).astype(float))


def draw(frame, path):
    """Draw the growth cases of a ``benchmark/1`` frame into ``path``; False, and no file, where there are none."""
    rows = growth_rows(frame)
    if rows.empty:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.style.context(str(SHEET)):
        figure, axis = plt.subplots(figsize=(4.4, 3.2))
        for name, looks in LOOKS.items():
            settings = list(dict.fromkeys(rows.loc[rows["path"] == name, "setting"]))
            for setting, (colour, marker) in zip(settings, looks, strict=False):
                line = rows[(rows["path"] == name) & (rows["setting"] == setting)].sort_values("size")
                median, best = line["cpu_s"].to_numpy(), line["cpu_s_best"].to_numpy()
                reach = [median - best, np.zeros_like(median)]
                axis.errorbar(line["size"], median, reach, color=colour, marker=marker, markersize=4, elinewidth=0.8,
                              capsize=1.5, label=f"{LABELS[name]}: {setting}")  # fmt: skip
        smallest, largest = rows["size"].min(), rows["size"].max()
        foot = rows.loc[rows["size"] == largest, "cpu_s"].min() / 2 * smallest / largest  # below every curve
        guide = [foot, foot * largest / smallest]
        axis.plot([smallest, largest], guide, color="0.6", linestyle="--", linewidth=0.8, label="linear in N")
        axis.set(xscale="log", yscale="log", xlabel="states N", ylabel="CPU seconds, one core")
        axis.set_title("Median of the rounds, bars to the best")
        figure.legend(loc="outside lower center")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)
    return True


def main(arguments=None):
    from snapdyn import artifacts

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parquet", type=Path, nargs="?", default=Path("results/bench/benchmark.parquet"))
    options = parser.parse_args(arguments)
    frame, _ = artifacts.read(options.parquet, "benchmark/1")
    path = options.parquet.with_name("growth.png")
    print(path if draw(frame, path) else f"{options.parquet} has no growth case: nothing to draw")


if __name__ == "__main__":
    main()
