"""The environments agree with each other, and the lock covers what the project asks for."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ENVS = ROOT / "envs"
CONDA = sorted(ENVS.glob("*.yaml"))
LOCKS = [ENVS / f"requirements{which}.txt" for which in ("", "-dev", "-slurm")]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "snakemake-minimal": "snakemake"}


def entries(path):
    """The requirements of a file that pip reads, comments and hashes left out."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    lines = (line.partition("--hash")[0].strip() for line in lines)
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pins(python, *paths):
    """Canonical name -> version that the locks give to a Linux machine with this Python."""
    machine = {
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    machine |= {"python_version": python, "python_full_version": f"{python}.0"}
    chosen = {}
    for entry in (entry for path in paths for entry in entries(path)):
        if entry.marker is None or entry.marker.evaluate(machine):
            (pin,) = entry.specifier
            assert pin.operator == "==", f"{entry} is not pinned"
            assert chosen.setdefault(canonicalize_name(entry.name), pin.version) == pin.version, entry
    return chosen


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_covers_every_requirement_of_the_project(python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    asked = [Requirement(text) for text in asked] + entries(ENVS / "requirements.in")
    locked = pins(python, ENVS / "requirements.txt", ENVS / "torch.txt")
    for requirement in asked:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_lock_covers_what_torch_needs_on_a_cpu():
    locked = pins("3.11", ENVS / "requirements.txt")
    for text in metadata.requires("torch"):
        requirement = Requirement(text)
        extra = requirement.marker and "extra" in str(requirement.marker)
        if not extra and not re.match("nvidia|cuda|triton", requirement.name):
            assert canonicalize_name(requirement.name) in locked, requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_everything_locked_has_a_hash(lock):
    blocks = re.split(r"\n(?=\S)", lock.read_text().strip())
    assert len(blocks) > 10
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)
    assert not {"torch", "triton"} & set(pins("3.11", lock))


@pytest.mark.parametrize("path", CONDA, ids=lambda path: path.name)
def test_conda_files_agree_with_the_lock(path):
    text = path.read_text()
    assert "# untested: no conda was at hand" in text
    locked = pins("3.11", *LOCKS, ENVS / "torch.txt") | {"python": "3.11"}
    for dependency in yaml.safe_load(text)["dependencies"]:
        name, _, version = dependency.partition("=")
        assert locked.get(canonicalize_name(CONDA_NAMES.get(name, name))) == version, dependency


def test_light_environments_do_without_torch():
    assert "torch" not in (ENVS / "base.yaml").read_text().partition("dependencies:")[2]


def test_every_environment_that_a_rule_names_exists():
    sources = [*ROOT.glob("workflow/rules/*.smk"), *ROOT.glob("workflow/Snakefile")]
    named = [
        (path, name) for path in sources for name in re.findall(r'"([^"\n]*envs/[^"\n]+\.ya?ml)"', path.read_text())
    ]
    assert named
    for path, name in named:
        assert (path.parent / name).is_file(), f"{path.name} names {name}"


def uv(*arguments, **options):
    command = [sys.executable, "-m", "uv", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.network
@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_the_lock_resolves_for_later_pythons(python, tmp_path, capsys):
    if uv("compile", "--no-cache", "-", input="packaging").returncode:
        pytest.skip("no package registry answers")
    into = ["install", "--dry-run", "--no-deps", "--target", tmp_path, "--python-version", python]
    wheels = ["--require-hashes", "--only-binary", ":all:", "--no-binary", "connection-pool"]
    resolved = uv(*into, *wheels, *(word for lock in LOCKS for word in ("-r", lock)))
    assert resolved.returncode == 0, resolved.stderr
    for name, version in pins(python, *LOCKS).items():
        assert f"+ {name}=={version}" in resolved.stderr
    with capsys.disabled():
        print(f"\nlock for Python {python}: resolved, not run")
