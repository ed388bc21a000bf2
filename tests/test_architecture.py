"""The rules that hold the house up, read from the source."""

import ast
import re
import sys
from pathlib import Path

import pytest

import hf_fer
from hf_fer.task.base import Task, task_names
from hf_fer.task.find import load_task

PACKAGE = Path(hf_fer.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
SYSTEMS = sorted(path.name for path in (PACKAGE / "models").iterdir() if (path / "__init__.py").is_file())
SHARED = [path for path in FILES if path.relative_to(PACKAGE).parts[0] != "models"]

# Imports run down this list: a room imports those before it. Models stand between task and experiment.
ROOMS = (
    *("recipe", "metrics", "data", "weights", "adapters", "reporting", "runtime", "task"),
    *("train", "experiment", "inference", "run", "cli"),
)
COMMANDS = ("stages.py", "data/demo.py", "data/check.py")
"""Old commands and those that find a system by its name: doors, which stand where people look for them."""


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module_name(path: Path) -> list[str]:
    parts = [*path.relative_to(PACKAGE.parent).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


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


def room_of(name: str) -> str | None:
    """The room that a dotted name lies in, or `None` for other packages and for what travels to the Hub."""
    parts = name.split(".")
    if parts[0] != "hf_fer" or len(parts) < 2:
        return None
    if parts[1] == "models":
        return "train" if "train" in parts[3:4] else None
    return parts[1] if parts[1] in ROOMS else None


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_imports_run_down(path):
    own = room_of(".".join(module_name(path)))
    if own is None or inside(path) in COMMANDS:
        return
    above = ROOMS[ROOMS.index(own) + 1 :]
    assert not sorted(name for name in imports(path) if room_of(name) in above)


@pytest.mark.parametrize("path", [path for path in FILES if path not in SHARED], ids=inside)
def test_no_system_imports_its_sibling(path):
    own = path.relative_to(PACKAGE).parts
    if len(own) < 3:
        return
    others = {f"hf_fer.models.{name}" for name in SYSTEMS if name != own[1]}
    assert not [
        name for name in imports(path) if any(name == other or name.startswith(f"{other}.") for other in others)
    ]


@pytest.mark.parametrize("path", SHARED, ids=inside)
def test_shared_code_does_not_name_a_system(path):
    assert not [name for name in imports(path) if name.startswith("hf_fer.models.")]
    code = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(code)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    strings = [node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    named = [text for text in strings if isinstance(text, str) and re.search(rf"\b({'|'.join(SYSTEMS)})\b", text)]
    assert not named


@pytest.mark.parametrize("path", FILES, ids=inside)
def test_what_travels_to_the_hub_needs_only_its_siblings(path):
    own = path.relative_to(PACKAGE).parts
    if own[0] != "models" or len(own) != 3 or path.name == "__init__.py":
        return
    sibling = f"hf_fer.models.{own[1]}."
    names = imports(path)
    assert not [name for name in names if name.split(".")[0] == "hf_fer" and not name.startswith(sibling)]
    assert not [name for name in names if name.startswith(f"{sibling}train")]


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


def test_few_modules_at_the_top():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 6


def methods(node: ast.ClassDef) -> set[str]:
    """Public methods and properties that a class defines."""
    return {
        item.name
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_")
    }


def classes() -> dict[str, ast.ClassDef]:
    """All classes of the package; two of one name would hide each other here, so names have their file."""
    return {
        f"{inside(path)}:{node.name}": node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


CLASSES = classes()
BY_NAME = {key.partition(":")[2]: node for key, node in CLASSES.items()}


def with_inherited(node: ast.ClassDef) -> set[str]:
    """The methods of a class, and those of its bases that are of this package."""
    bases = {ast.unparse(base).split(".")[-1] for base in node.bases} - {node.name}
    return methods(node).union(*(with_inherited(BY_NAME[base]) for base in bases & BY_NAME.keys()))


def test_no_class_has_more_than_15_public_methods():
    counts = {key: len(with_inherited(node)) for key, node in CLASSES.items()}
    assert not {key: count for key, count in counts.items() if count > 15}


def test_no_hook_of_a_task_stores_anything_for_another():
    """A hook may be called for another model, another fold or not at all."""
    stored = [
        f"{key}.{method.name}: self.{target.attr}"
        for key, node in CLASSES.items()
        if with_inherited(node) > {"load_data", "build_model", "score"}
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name != "__init__"
        for target in ast.walk(method)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
        if isinstance(target.value, ast.Name) and target.value.id == "self"
    ]
    assert not stored


PAGES = [page for folder in ("", "docs", "docs/measurements") for page in (PACKAGE.parent / folder).glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_can_be_read_in_a_narrow_window(page):
    """Prose is wrapped before column 100, and code is fenced with its language: what is indented is not tested."""
    long, fence = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            assert fence or line != "```", f"{page.name}:{number}: a fence without its language"
            fence = not fence
        elif not fence and line.startswith("    "):
            pytest.fail(f"{page.name}:{number}: code without a fence")
        elif not fence and len(line) >= 100 and " " in line.strip() and not line.startswith(("|", "![", "#", "`")):
            long.append(f"{page.name}:{number}")
    assert not long
