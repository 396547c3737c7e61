"""A small run made up on disk, for the tests of the report: every kind of file, and text that wants to break out."""

import json
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from snapdyn import artifacts, report

ROOT = Path(__file__).parents[1]
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"
PAPER = "fokker-planck-loss"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OVERLAY = {"run": "made-up"}
MINE = {
    "run": "made-up",
    "datasets": {"points": {"kind": "table", "path": "points.csv", "time_key": "t", "columns": ["a", "b"]}},
    "analyses": {"drift_of_points": {"dataset": "points", "method": "affine-propagation", "seeds": 2}},
}


def png(width=40, height=30):
    """A grey picture."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes((17 * x + y) % 256 for x in range(width)) for y in range(height))
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def witness(path, rule, **facts):
    """Provenance as a job writes it."""
    said = {
        "rule": rule,
        "wildcards": {"name": Path(path).stem},
        "started": "2026-01-02T03:04:05+00:00",
        "wall_s": 2.5,
        "commit": COMMIT,
        "dirty": False,
        "versions": {"numpy": "2.0.0", "python": "3.12.1"},
        "host": "node7",
        "platform": "Linux",
        "device": "cpu",
        "device_because": "the configuration says cpu",
    }
    artifacts.write_json(said | facts, f"{path}.provenance.json")


def claims():
    """One claim of each verdict, and one whose text is hostile; ``lorenz`` is an experiment, ``no-such`` is none."""
    columns = list(artifacts.CONTRACTS["scorecard/1"].columns)
    nan = np.nan
    rows = [
        (
            "fig2-sigma",
            "Fig. 2",
            "lorenz",
            nan,
            nan,
            0.252,
            0.02,
            20,
            0.004,
            "predicted standard error",
            "short",
            "asked",
        ),
        ("won", "Table 1", "lorenz", 2.0, 0.1, 1.25, 0.05, 5, 1.0, "exact", "better", ""),
        ("met", "Table 1", "lorenz", 2.0, nan, 2.05, 0.05, 2, nan, "", "reproduced", "2 seeds only"),
        (
            "beyond",
            "Table 2",
            "lorenz",
            0.5,
            0.0,
            nan,
            nan,
            0,
            1.0,
            "exact",
            "impossible as published",
            "beyond the bound",
        ),
        ("unlike", "Fig. 9", "lorenz", nan, nan, 3.0, 1.0, 3, nan, "", "not comparable", "another protocol"),
        ("absent", "Fig. 10", "no-such", nan, nan, nan, nan, 0, nan, "", "not run", "resource cells is not here"),
        (HOSTILE, HOSTILE, "lorenz", 1.0, 0.1, 1.0, 0.1, 3, nan, HOSTILE, "reproduced", HOSTILE),
    ]
    frame = pd.DataFrame(
        [(row[0], PAPER, row[1], row[2], "kde-adam", "relative_error_sigma", *row[3:]) for row in rows], columns=columns
    )
    return frame.astype(dict.fromkeys(("published", "published_spread", "ours", "ours_spread", "floor"), "float64"))


def metrics(experiment, rows, dataset="lorenz"):
    """A ``metrics/1`` frame from ``(method, metric, [value of each seed])``."""
    columns = list(artifacts.CONTRACTS["metrics/1"].columns)
    lines = [
        (PAPER, experiment, dataset, method, seed, "train", np.nan, metric, value, "1", 1000)
        for method, metric, values in rows
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(lines, columns=columns)


def parameters(experiment, rows, dataset="lorenz"):
    """A ``parameters/1`` frame from ``(method, name, [estimate of each seed], standard error, truth)``."""
    columns = list(artifacts.CONTRACTS["parameters/1"].columns)
    lines = [
        (PAPER, experiment, dataset, method, seed, name, value, error, truth, "1/time unit")
        for method, name, values, error, truth in rows
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(lines, columns=columns)


def figure(base, caption, equations):
    """A figure's three files and their provenance."""
    frame = pd.DataFrame({"panel": ["cloud", "error"], "series": ["moments", "kds"], "x": 0.0, "y": [1.0, 2.0]})
    frame = frame.assign(low=np.nan, high=np.nan)
    artifacts.write(frame, base.with_suffix(".parquet"), "figure/1", {"caption": caption, "equations": equations})
    base.with_suffix(".png").write_bytes(png())
    base.with_suffix(".pdf").write_bytes(b"%PDF-1.4\n")
    witness(base.with_suffix(".parquet"), "figure")


def paper_run(folder):
    """A run of the paper in which ``lorenz`` is done, ``bandwidth`` is half done, and nothing else is there."""
    results = folder / "results" / "made-up"
    artifacts.write(claims(), results / "scorecard.parquet", "scorecard/1", {"run": "made-up"})
    witness(results / "scorecard.parquet", "scorecard", started="2026-01-02T05:00:00+00:00", dirty=True, host=HOSTILE)
    fits = results / "fits" / PAPER
    found = [
        ("moments", "relative_rms_error", [0.01, 0.03]),
        ("moments", "covered", [1.0, 0.5]),
        (HOSTILE, "relative_rms_error", [0.2]),
        ("moments", "relative_error_sigma", [0.01, -0.02]),
    ]
    artifacts.write(metrics("lorenz", found), fits / "lorenz" / "metrics.parquet", "metrics/1")
    witness(fits / "lorenz" / "metrics.parquet", "score_recovery")
    known = [("moments", "sigma", [9.9, 10.1], 0.3, 10.0), ("moments", "rho", [28.0, 28.4], 0.4, 28.0)]
    known.append(("kds", HOSTILE, [1.0], np.nan, np.nan))
    artifacts.write(parameters("lorenz", known), fits / "lorenz" / "parameters.parquet", "parameters/1")
    figures = results / "figures" / PAPER
    figure(figures / "lorenz", f"Lorenz system, D = 12.5, 4,321 points. {HOSTILE}", ["plain-design", "moments"])
    figure(figures / "bandwidth", "Half of it.", ["plain-design"])
    (figures / "bandwidth.png").unlink()
    for rule, job, wall in (
        ("recover", "lorenz/moments", 100.0),
        ("recover", "lorenz/kds", 20.0),
        ("simulate", "a", 7.0),
    ):
        path = results / "benchmarks" / rule / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tcpu_time\tmax_rss\n{wall}\t{wall / 2}\t512.0\n")
    return results


def own_run(folder):
    """A run of one analysis of the user's own data, finished."""
    folder.mkdir(parents=True, exist_ok=True)
    MINE["datasets"]["points"]["path"] = str(folder / "points.csv")
    (folder / "points.csv").write_text("t,a,b\n0,1,2\n")
    results = folder / "results" / "made-up"
    base = results / "analyses" / "drift_of_points"
    answer = {"verdict": "cannot tell", "gain": 0.2, "low": -0.1, "high": 0.5, "margin": 0.05, "null_score": 1.0}
    answer |= {"model_score": 0.8, "null": "no movement", "n_seeds": 2, "n_cells": 10, "sentence": f"Maybe. {HOSTILE}"}
    base.mkdir(parents=True)
    (base / "verdict.json").write_text(json.dumps(answer))
    page = f"# drift_of_points\n\nWords with $x_1^2$, {HOSTILE} and [a link](javascript:alert(3)).\n\n"
    page += "![a picture](https://example.org/x.png)\n\n## Scores\n\n| name | value |\n| --- | --- |\n| sigma | 2 |\n"
    (base / "page.md").write_text(page)
    (base / "page.png").write_bytes(png())
    frame = metrics("drift_of_points", [("affine-propagation", "w1", [1.0])]).assign(paper="analyses")
    artifacts.write(frame, base / "metrics.parquet", "metrics/1")
    witness(base / "metrics.parquet", "evaluate_analysis", device="cuda", device_because="auto: Some GPU")
    only = claims().iloc[[5]]
    artifacts.write(only, results / "scorecard.parquet", "scorecard/1", {"run": "made-up"})
    return results


def page_of(results, overlay=OVERLAY):
    """The report on a made-up run, as text."""
    path, _ = report.make(report.plan_of(overlay), results, arguments="--configfile mine.yaml")
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would find in a page: tags with their attributes, and the text below every id."""

    VOID = ("meta", "link", "img", "input", "br", "hr")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self._open = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, name in self._open:
            if name:
                self.words[name] = self.words.get(name, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def text(self, name):
        return " ".join(self.words.get(name, "").split())
