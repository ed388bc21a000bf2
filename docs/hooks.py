"""
What the site, README and the notebook take from one setting: the repository's address, `Repository` in pyproject.toml.

MkDocs calls the `on_*` functions. `python docs/hooks.py` (`make address`) writes the address into README.md and the
notebook, which nothing builds; tests/test_site.py fails while they differ from the setting.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOK = "notebooks/colab.ipynb"
BADGE = re.compile(r"<!-- colab -->.*?<!-- /colab -->", re.DOTALL)
SETTING = re.compile(r'(?<="REPOSITORY = )(None|\\"[^"]*\\")')


def address(root: Path = ROOT) -> str | None:
    """The repository's address, or `None` while pyproject.toml has none."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def badge(url: str | None) -> str:
    """The link that opens the notebook in Colab, which only reads GitHub; empty without an address there."""
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", url or "")
    if not found:
        return ""
    colab = "https://colab.research.google.com"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{found[1]}/blob/main/{NOTEBOOK})"


def with_badge(text: str, url: str | None) -> str:
    """A page with the badge, or nothing, between its two `colab` comments."""
    return BADGE.sub(f"<!-- colab -->{badge(url)}<!-- /colab -->", text)


def with_repository(notebook: str, url: str | None) -> str:
    """The notebook's JSON with the address that it clones where it is opened alone."""
    return SETTING.sub(f'\\"{url}\\"'.replace("\\", "\\\\") if url else "None", notebook)


def stamped(root: Path = ROOT) -> dict[Path, str]:
    """README and notebook as the setting wants them."""
    url = address(root)
    return {
        root / name: write((root / name).read_text(encoding="utf-8"), url)
        for name, write in (("README.md", with_badge), (NOTEBOOK, with_repository))
    }


def on_config(config):
    """The site's link to the repository."""
    config.repo_url = address()
    config.repo_name = config.repo_url and config.repo_url.rstrip("/").split("/")[-1]
    return config


def on_page_markdown(markdown: str, **_) -> str:
    """The badge on pages with its two comments."""
    return with_badge(markdown, address())


if __name__ == "__main__":
    for path, text in stamped().items():
        path.write_text(text, encoding="utf-8")
