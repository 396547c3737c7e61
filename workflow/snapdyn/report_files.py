"""What a report links to: files of the run and of the workflow, rules, functions, and who witnessed what.

Links are relative to where the report lies, and only made to what exists; small tables travel inside the report, so
that they can still be opened where it has been moved.
"""

import ast
import base64
import io
import json
import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

from snapdyn import report_tables

EMBEDDED = 200_000  # bytes of a table that still travels inside the report
PICTURES = 7_500_000  # bytes of all pictures, a third more inside the page; beyond it they get fewer colours
TYPES = {".parquet": "application/vnd.apache.parquet", ".png": "image/png"}


def data_uri(content, suffix):
    return f"data:{TYPES[suffix]};base64,{base64.b64encode(content).decode()}"


class Links:
    """Files as seen from the folder of the report.

    Args:
        folder: where the report will lie.
        root: the checkout that holds the workflow.
    """

    def __init__(self, folder, root):
        self.folder, self.root = Path(os.path.abspath(folder)), Path(os.path.abspath(root))  # links stay as they are

    def to(self, path, *, text=None, embed=False):
        """``href``, ``text``, ``size`` and ``data`` (the file itself, if small and asked for); None without a file."""
        path = Path(path)
        if not path.is_file():
            return None
        bytes_ = path.stat().st_size
        inside = embed and bytes_ <= EMBEDDED
        return {
            "href": quote(os.path.relpath(os.path.abspath(path), self.folder)),
            "text": text or path.name,
            "name": path.name,
            "size": report_tables.size(bytes_),
            "data": data_uri(path.read_bytes(), path.suffix) if inside else None,
        }

    def rule(self, name):
        """The rule ``name``: its file, line and first line of its docstring; None if there is none."""
        found = _rules(self.root).get(name)
        return found and found | self.to(found["path"], text=f"{found['path'].name}, line {found['line']}")

    def script(self, name):
        return self.to(self.root / "workflow" / "scripts" / f"{name}.py")

    def module(self, name):
        return self.to(self.root / "workflow" / "snapdyn" / f"{name}.py")

    def function(self, spec):
        """The function that a figure's ``function: figures.<name>`` stands for, with its source; None if there is none.

        It is found by name among the modules that arrange figures, because importing them would import torch.
        """
        found = _functions(self.root / "workflow" / "snapdyn").get(spec.rpartition(".")[2])
        return found and found | self.to(found["path"], text=f"{found['path'].name}, line {found['line']}")


@cache
def _rules(root):
    found = {}
    for path in sorted((root / "workflow" / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^(?:rule (\w+)|use rule (\w+) as (\w+) with):", text, re.MULTILINE):
            name, parent = match[1] or match[3], match[2]
            said = re.match(r'\s*"""(.*?)"""', text[match.end() :], re.DOTALL)
            script = re.search(r'script:\s*"([^"]+)"', text[match.end() :].split("\nrule ")[0])
            found[name] = {
                "rule": name,
                "path": path,
                "line": text.count("\n", 0, match.start()) + 1,
                "does": " ".join(said[1].split()) if said else found.get(parent, {}).get("does", ""),
                "script": Path(script[1]).stem if script else found.get(parent, {}).get("script", name),
            }
    return found


@cache
def _functions(package):
    found = {}
    for path in sorted(package.glob("figures*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                source = ast.get_source_segment(text, node)
                called = f"{path.stem}.{node.name}"
                found.setdefault(node.name, {"path": path, "line": node.lineno, "source": source, "called": called})
    return found


def equations_of(module):
    """Labels after ``Equation:`` in the docstrings of a module; without any, of the modules that it puts together."""
    module = Path(module)
    text = module.read_text(encoding="utf-8")
    if found := _labels(text):
        return found
    nodes = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.module == "snapdyn"
    ]
    parts = [module.with_name(f"{alias.name}.py") for node in nodes for alias in node.names]
    labels = [label for part in parts if part.is_file() for label in _labels(part.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(labels))


def _labels(text):
    named = re.findall(r"Equations?:\s+((?:``[a-z0-9-]+``(?:,\s*|\s+and\s+)?)+)", text)
    return list(dict.fromkeys(label for part in named for label in re.findall(r"``([a-z0-9-]+)``", part)))


class Witnesses:
    """All provenance files of a run.

    Attributes:
        facts: ``path of the artifact relative to the run -> what its job said``.
        unreadable: relative paths of provenance files that are no JSON.
    """

    def __init__(self, results):
        self.facts, self.unreadable = {}, []
        for path in sorted(Path(results).rglob("*.provenance.json")):
            about = path.relative_to(results).as_posix().removesuffix(".provenance.json")
            try:
                self.facts[about] = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, OSError, TypeError):
                self.unreadable.append(about)

    def under(self, *folders):
        """The facts of artifacts below one of these folders of the run."""
        return [
            facts
            for about, facts in self.facts.items()
            if any(about.startswith(f"{folder.rstrip('/')}/") for folder in folders)
        ]

    def jobs(self):
        """One entry a job: a job that writes several artifacts says the same of each."""
        found = {}
        for facts in self.facts.values():
            found[facts.get("rule"), json.dumps(facts.get("wildcards"), sort_keys=True), facts.get("started")] = facts
        return [found[key] for key in sorted(found, key=str)]


def pictures(paths, budget=PICTURES):
    """``path -> data URI`` of PNG files; with fewer colours where together they would be larger than ``budget``."""
    paths = [path for path in dict.fromkeys(map(Path, paths)) if path.is_file()]
    crowded = sum(path.stat().st_size for path in paths) > budget
    return {path: data_uri(_fewer_colours(path) if crowded else path.read_bytes(), ".png") for path in paths}


def _fewer_colours(path, widest=1400):
    from PIL import Image  # comes with matplotlib

    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > widest:
        picture = picture.resize((widest, round(picture.height * widest / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(buffer.getvalue(), path.read_bytes(), key=len)
