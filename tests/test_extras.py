"""The extras of the package: each is used by a file, and all of them resolve together with constraints.txt."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MODULES = {"flashlight-text": "flashlight", "lingua-language-detector": "lingua"}
"""Of distributions whose module has another name."""

INDIRECT = {"python-multipart", "codecarbon", "trackio"}
"""What other libraries import: FastAPI, where it reads an upload, and the Trainer, where `report_to` names it."""

NO_INDEX = ("Failed to fetch", "Could not connect", "dns error", "network connectivity", "error sending request")


def imported() -> set[str]:
    """First names of all modules that the package and its benchmarks import."""
    found = set()
    for file in (file for folder in ("hf_fer", "benchmarks") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def test_a_file_imports_every_library_of_an_extra():
    names = imported()
    for extra, requirements in EXTRAS.items():
        libraries = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements} - INDIRECT
        unused = [name for name in libraries if MODULES.get(name, name.replace("-", "_")) not in names]
        assert extra in ("dev", "docs") or not unused


def test_all_extras_resolve_with_the_constraints():
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11"]
    command += ["--all-extras", "--constraints", "constraints.txt", "pyproject.toml"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer within three minutes")
    if any(reason in done.stderr for reason in NO_INDEX):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    chosen = {line.partition("==")[0].lower() for line in done.stdout.splitlines() if "==" in line}
    constrained = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert not set(constrained) - chosen  # a version of a package that nothing needs would say what is not so
