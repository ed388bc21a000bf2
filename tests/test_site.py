"""The site of docs/: it builds, its links lead somewhere, its drawing is true, and one setting has the address."""

import logging
import re
import runpy
import shutil
from pathlib import Path

import pytest
from pages import ROOT
from test_architecture import ROOMS

from hf_fer.task.base import Task

HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
ADDRESS = "https://github.com/somebody/some_name"

Abort = pytest.importorskip("mkdocs.exceptions", reason="needs the extra docs").Abort


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """MkDocs leaves its handlers on the logger, and Material greets on import."""
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    yield
    logging.getLogger("mkdocs").handlers.clear()


def build(config_file: Path, site: Path) -> None:
    """What `make docs` does; raises `Abort` on any warning."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(config_file), site_dir=str(site), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)


def test_it_builds_and_every_page_is_in_its_navigation(tmp_path):
    build(ROOT / "mkdocs.yml", tmp_path)
    assert 'class="mermaid"' in (tmp_path / "architecture" / "index.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("hooks.py"))


@pytest.fixture
def small_site(tmp_path):
    """Writes pages of one's own under the settings of the real site, and builds them."""

    def build_pages(**pages: str) -> None:
        docs = tmp_path / "docs"
        docs.mkdir()
        shutil.copyfile(ROOT / "docs" / "hooks.py", docs / "hooks.py")
        for name, text in pages.items():
            (docs / f"{name}.md").write_text(text)
        (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
        settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[0]
        settings = settings.replace("plugins: [search]", "plugins: []")
        (tmp_path / "mkdocs.yml").write_text(f"{settings}nav: [index.md, recipes.md]\n")
        build(tmp_path / "mkdocs.yml", tmp_path / "site")

    return build_pages


def test_a_link_to_a_heading_is_found(small_site):
    small_site(index="# A page\n\n[A link](recipes.md#fields)\n", recipes="# Recipes\n\n## Fields\n")


@pytest.mark.parametrize("link", ["absent.md", "recipes.md#no-such-heading", "../no_page_of_the_site.md"])
def test_a_link_that_leads_nowhere_is_noticed(link, small_site):
    with pytest.raises(Abort):
        small_site(index=f"# A page\n\n[A link]({link})\n", recipes="# Recipes\n")


def test_a_page_that_the_navigation_lacks_is_noticed(small_site):
    with pytest.raises(Abort):
        small_site(index="# A page\n", recipes="# Recipes\n", lost="# Lost\n")


def test_the_drawing_has_the_rooms_in_the_order_of_their_imports():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = re.search(r"```mermaid\n(.*?)```", page, re.DOTALL)[1]
    assert not [room for room in ROOMS if not re.search(rf'"(models/x/)?{room}:', drawing)]
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == ROOMS
    hooks = re.search(r'-- "(\w+(?:, \w+)+)" --> experiment', drawing)[1].split(", ")
    assert not [hook for hook in hooks if not hasattr(Task, hook)]


def test_readme_and_notebook_have_the_address_of_the_setting():
    assert not [path.name for path, text in HOOKS["stamped"]().items() if path.read_text(encoding="utf-8") != text]


@pytest.mark.parametrize("url", [ADDRESS, f"{ADDRESS}.git"])
def test_one_setting_gives_badge_link_and_notebook(url, tmp_path):
    project = tmp_path / "pyproject.toml"
    for name in ("pyproject.toml", "README.md", "notebooks/colab.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    text = re.sub(r"(?m)^\[project\.urls\]\n(.*\n)*?\n", "", project.read_text(encoding="utf-8"))
    project.write_text(f'{text}\n[project.urls]\nRepository = "{url}"\n')
    readme, notebook = HOOKS["stamped"](tmp_path).values()
    assert "(https://colab.research.google.com/github/somebody/some_name/blob/main/notebooks/colab.ipynb)" in readme
    assert f'REPOSITORY = \\"{url}\\"' in notebook
    assert HOOKS["with_badge"](readme, None) == HOOKS["with_badge"]((ROOT / "README.md").read_text("utf-8"), None)
    assert HOOKS["with_repository"](notebook, None) == (ROOT / "notebooks" / "colab.ipynb").read_text("utf-8")


def test_an_address_elsewhere_has_no_badge():
    assert HOOKS["badge"]("https://example.org/some/name") == HOOKS["badge"](None) == ""
