"""What is installed: the lock, the wheel, the Makefile's choice of Python, and what is said when RecBole is missing."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
BOUNDS = [
    *("recbole==1.2.1", "pandas<3", "numpy>=2", "scipy>=1.15", "torch>=2.6", "torchvision>=0.21", "ray>=2.40"),
    *("transformers>=5", "peft>=0.17", "open-clip-torch>=3", "pytest>=8", "uv>=0.5"),
]


def read_requirements(name: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line]


def run_python(code: str, path: list[Path], place: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new Python that stands in ``place`` and imports from ``path`` before anything installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    return given


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_pins_one_version_within_bounds(python: str) -> None:
    target = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pins: dict[str, list[str]] = {}
    for line in read_requirements("requirements.lock"):
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version
        if requirement.marker is None or requirement.marker.evaluate(target):
            pins.setdefault(requirement.name, []).append(specifier.version)
    assert all(len(versions) == 1 for versions in pins.values())
    for bound in map(Requirement, BOUNDS):
        assert bound.specifier.contains(pins[bound.name][0]), f"{bound.name} {pins[bound.name][0]} on Python {python}"


def test_lock_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|://|--\w*index|--find-links|/opt|/home|/tmp|@", text)


def test_requirements_in_names_what_setup_py_names(setup_arguments: dict[str, Any]) -> None:
    extras = setup_arguments["extras_require"].values()
    named = ["recbole==1.2.1", *setup_arguments["install_requires"], *(one for extra in extras for one in extra)]
    assert sorted(read_requirements("requirements.in")) == sorted(named)


def test_wheel_works_away_from_the_source_tree(tmp_path: Path) -> None:
    source, target, place = (tmp_path / name for name in ("source", "target", "elsewhere"))
    place.mkdir()
    copy_tree(source)
    # The build backend itself, as a front end without build isolation calls it: needs neither pip nor a network.
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    built = run_python(build, [], source)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # a pure Python wheel's files lie as they are installed
        names = set(archive.namelist())
        archive.extractall(target)

    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "properties").rglob("*.yaml")}
    assert {f"nestrec_recbole/{name}" for name in files} <= names
    assert {f"nestrec_recbole/suites/{path.name}" for path in (ROOT / "benchmarks/suites").glob("*.yaml")} <= names
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nestrec_recbole/bench/report").glob("*.[jc]*s*")}
    assert len(page) > 3 and page | {"nestrec_recbole/py.typed"} <= names
    (about,) = target.glob("nestrec_recbole-*.dist-info")
    assert {name.split("/")[0] for name in names} == {"nestrec_recbole", about.name}
    assert "nestrec = nestrec_recbole.cli:main" in (about / "entry_points.txt").read_text()
    metadata = Parser().parsestr((about / "METADATA").read_text())
    assert not [one for one in metadata.get_all("Requires-Dist", []) if one.startswith("recbole")]

    code = """import json, nestrec_recbole, nestrec_recbole.cli
from nestrec_recbole.plugin import load_properties
from nestrec_recbole.bench.suite import shipped_suites
assert "smoke" in shipped_suites()
print(json.dumps([nestrec_recbole.__file__, load_properties("NestRec")["llm"]]))"""
    used = run_python(code, [target], place)
    assert used.returncode == 0, used.stderr
    file, llm = json.loads(used.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(target)
    assert llm == yaml.safe_load((ROOT / "properties/model/NestRec.yaml").read_text())["llm"]


def copy_tree(folder: Path) -> None:
    """Copy what git would commit; where git does not say, all but what is made by tools and runs."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    if listed is None or listed.returncode:
        made = shutil.ignore_patterns(".*", "runs", "log*", "saved", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=made)
        return
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


@pytest.mark.parametrize("version", [None, "1.1.0"])
def test_import_says_how_to_get_recbole(version: str | None, tmp_path: Path) -> None:
    code = "import nestrec_recbole"
    if version is None:
        code = f"import sys; sys.modules['recbole'] = None; {code}"
    else:
        (tmp_path / "recbole").mkdir()
        (tmp_path / "recbole" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    result = run_python(code, [tmp_path, ROOT], tmp_path)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("ImportError") and "pip install --no-deps recbole==1.2.1" in last
    assert version is None or version in last


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_makefile_names_an_unsupported_python(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "overrides.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    result = subprocess.run(["make", f"PYTHON={old}", "lint"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    first, *rest = result.stderr.splitlines()
    assert result.returncode != 0
    assert f"needs Python 3.10 to 3.13; found: {old} is 3.9" in first
    assert all(line.startswith("make") for line in rest)
    assert not (tmp_path / ".venv").exists()
