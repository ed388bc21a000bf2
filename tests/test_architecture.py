"""The rules that hold the house up, read from the source."""

import ast
import sys
from pathlib import Path

import pytest

import hf_fer
from hf_fer.task import Task, load_task, task_names

PACKAGE = Path(hf_fer.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
SYSTEMS = sorted(path.name for path in (PACKAGE / "models").iterdir() if (path / "__init__.py").is_file())
LAYERS = ("arguments", "search_space", "data", "metrics", "report", "confidence", "callbacks", "task")


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports at any depth of its code."""
    package = list(path.relative_to(PACKAGE.parent).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_system_imports_its_sibling(path):
    inside = path.relative_to(PACKAGE).parts
    if inside[0] != "models" or len(inside) < 3:
        return
    others = {f"hf_fer.models.{name}" for name in SYSTEMS if name != inside[1]}
    assert not [
        name for name in imports(path) if any(name == other or name.startswith(f"{other}.") for other in others)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shared_code_does_not_name_a_system(path):
    inside = path.relative_to(PACKAGE).parts
    if inside[0] == "models":
        return
    assert not [name for name in imports(path) if name.startswith("hf_fer.models.")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_travels_to_the_hub_needs_only_its_siblings(path):
    inside = path.relative_to(PACKAGE).parts
    if inside[0] != "models" or len(inside) < 3 or path.name == "__init__.py" or path.name.startswith("task_"):
        return
    sibling = f"hf_fer.models.{inside[1]}."
    foreign = [name for name in imports(path) if name.split(".")[0] == "hf_fer" and not name.startswith(sibling)]
    assert not foreign
    assert not [name for name in imports(path) if ".task_" in name]


def test_lower_rooms_do_not_import_upper_ones():
    rooms = ("run", "dry_run", "card", "results", "preparation", "cross_validation", "hyperparameter_search")
    upper = tuple(f"hf_fer.{room}" for room in rooms)
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in LAYERS:
            assert not [name for name in imports(path) if name.startswith(upper)], path


def test_no_module_is_named_after_a_library():
    names = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    libraries = {"datasets", "evaluate", "peft", "torch", "transformers", "accelerate", "timm", "cv2", "av", "numpy"}
    assert not names & (libraries | set(sys.stdlib_module_names))


def test_every_system_has_a_task_a_card_and_a_demo_recipe():
    assert task_names() == SYSTEMS
    root = PACKAGE.parent
    for name in SYSTEMS:
        assert issubclass(load_task(name), Task)
        assert load_task(name).name() == name
        assert (root / "model_cards" / f"{name}.md").is_file()
        assert list((root / "training_args" / "demo").glob(f"{name}*.json"))


def test_files_stay_under_500_lines():
    files = [*FILES, *Path(__file__).parent.rglob("*.py")]
    assert not [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 500]
