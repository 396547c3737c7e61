"""The files behind a script: all of them, and no others."""

import pytest

from snapdyn import codebase


@pytest.fixture
def package(tmp_path):
    """A package ``lib`` in which a needs b and c, c needs d in a function, and e stands alone."""
    sources = {
        "__init__": "__version__ = '1'\ndef load():\n    from lib import d\n",
        "a": "import json\nfrom lib import b\nfrom lib.c import thing\n",
        "b": "from lib import __version__\nimport lib.a\n",
        "c": "def thing():\n    if True:\n        from lib import d\n",
        "d": "import numpy as np\n",
        "e": "",
    }
    (tmp_path / "lib").mkdir()
    for name, source in sources.items():
        (tmp_path / "lib" / f"{name}.py").write_text(source)
    return tmp_path / "lib"


def names(paths):
    assert paths == sorted(paths)
    return [path.stem for path in paths]


def test_imports_are_followed_wherever_they_stand(package, tmp_path):
    entry = tmp_path / "script.py"
    entry.write_text("with open('x'):\n    from lib import c\n")
    assert names(codebase.modules_behind(entry, package)) == ["c", "d", "script"]


def test_a_circle_ends_and_all_three_forms_count(package):
    assert names(codebase.modules_behind(package / "a.py", package)) == ["a", "b", "c", "d"]


def test_the_package_file_counts_only_for_its_functions(package, tmp_path):
    entry = tmp_path / "script.py"
    entry.write_text("from lib import e, __version__\n")
    assert names(codebase.modules_behind(entry, package)) == ["e", "script"]
    entry = tmp_path / "loader.py"
    entry.write_text("from lib import load\n")
    assert names(codebase.modules_behind(entry, package)) == ["__init__", "d", "loader"]


def test_named_modules_have_the_same_closure(package):
    assert names(codebase.modules_named(["c", "e"], package)) == ["c", "d", "e"]
    assert codebase.modules_named([], package) == []


def test_every_unknown_module_is_named_at_once_with_the_nearest(package, tmp_path):
    entry = tmp_path / "script.py"
    entry.write_text("from lib import bb\n\nimport lib.zebra\nfrom . import a\n")
    with pytest.raises(ValueError, match="'bb'; did you mean 'b'") as told:
        codebase.modules_behind(entry, package)
    assert "script.py:3" in str(told.value) and "'zebra'" in str(told.value)
    assert "relative import" in str(told.value)
    with pytest.raises(ValueError, match="no module 'dd'"):
        codebase.modules_named(["dd"], package)


def test_this_package_resolves_and_light_modules_stay_light():
    package = codebase.Path(codebase.__file__).parent
    for module in package.glob("*.py"):
        assert module in codebase.modules_behind(module, package)
    assert names(codebase.modules_named(["run"], package)) == ["artifacts", "interruption", "run", "writing"]
