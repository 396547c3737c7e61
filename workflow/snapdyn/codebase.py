"""Which package files stand behind a script, so that editing one reruns its users and nobody else.

The package's ``__init__.py`` counts only for those who take a function from it: modules stand for
themselves, and names such as ``__version__`` change no result.
"""

import ast
from difflib import get_close_matches
from functools import cache
from pathlib import Path


def modules_behind(entry, package):
    """Files that running ``entry`` can import from the package, through any number of steps.

    Args:
        entry: a Python file, inside the package or not.
        package: the package's folder.
    Returns:
        sorted paths, ``entry`` included.
    Raises:
        ValueError: naming every import of something the package does not have, and relative imports.
    """
    entry, package = Path(entry), Path(package)
    behind, waiting, faults = set(), [entry], []
    while waiting:
        path = waiting.pop()
        if path in behind:
            continue
        behind.add(path)
        for name, line in _imported(path, package.name):
            found = _file_of(name, package)
            if isinstance(found, str):
                faults.append(f"{path}:{line}: {found}")
            else:
                waiting.append(found)
    if faults:
        raise ValueError("; ".join(sorted(faults)))
    return sorted(behind)


def modules_named(names, package):
    """Files behind the package's modules ``names``, themselves included; for what no script imports."""
    package = Path(package)
    found = {name: _file_of(name, package) for name in names}
    if faults := [fault for fault in found.values() if isinstance(fault, str)]:
        raise ValueError("; ".join(faults))
    return sorted({path for entry in found.values() for path in modules_behind(entry, package)})


def accepts(path, cls, function, argument):
    """Whether ``cls.function`` in the file ``path`` takes ``argument``, without importing anything.

    Returns:
        True as well where the source does not tell, as for a function that is inherited.
    """
    classes = [node for node in _parsed(Path(path)).body if isinstance(node, ast.ClassDef) and node.name == cls]
    for node in (node for found in classes for node in found.body):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            given = node.args
            names = {arg.arg for arg in [*given.posonlyargs, *given.args, *given.kwonlyargs]}
            return argument in names or given.kwarg is not None
    return True


def _file_of(name, package):
    """The file that holds ``package.name``, or a sentence saying that there is none."""
    if name is None:
        return f"relative import; this project says 'from {package.name} import ...'"
    if (module := package / f"{name}.py").exists():
        return module
    if name in _defined(package / "__init__.py"):
        return package / "__init__.py"
    modules = sorted(path.stem for path in package.glob("*.py"))
    near = get_close_matches(name, modules, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its modules are {modules}"
    return f"package {package.name} has no module {name!r}; {hint}"


@cache
def _imported(path, package):
    """``(name, line)`` of what ``path`` takes directly from ``package``; name None if relative."""
    taken = []
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom):
            root, _, inner = (node.module or "").partition(".")
            if node.level:
                taken.append((None, node.lineno))
            elif root == package:
                names = [inner.partition(".")[0]] if inner else [alias.name for alias in node.names]
                taken += [(name, node.lineno) for name in names if not name.startswith("__")]
        elif isinstance(node, ast.Import):
            parts = [(alias.name + ".__init__").split(".") for alias in node.names]
            taken += [(part[1], node.lineno) for part in parts if part[0] == package]
    return taken


@cache
def _defined(path):
    """Functions and classes that ``path`` defines."""
    body = _parsed(path).body if path.exists() else ()
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
