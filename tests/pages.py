"""The code blocks of README.md and docs/, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "README.vi.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"# needs (?P<what>\S.*)")
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: its page, the number of its first line, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def is_marked(self) -> bool:
        """Whether a comment says that it needs what is not in this repository."""
        return bool(MARK.search(self.text))


@dataclass(frozen=True)
class Command:
    """One shell command without its comment, and whether it is marked as needing what is not in this repository."""

    place: str
    text: str
    is_marked: bool

    @property
    def parts(self) -> list[list[str]]:
        """The words of each command that `&&` joins, without assignments before it; patterns of files are expanded."""
        parts = [[]]
        for word in shlex.split(self.text):
            if word == "&&":
                parts.append([])
            elif parts[-1] or not re.match(r"\w+=", word):
                found = sorted(ROOT.glob(word)) if "*" in word else []
                parts[-1].extend([str(path.relative_to(ROOT)) for path in found] or [word])
        return parts


def blocks() -> Iterator[Block]:
    """All of the pages' code blocks."""
    for page in PAGES:
        text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
        for match in FENCE.finditer(text):
            yield Block(name, line_of(text, match.start("text")), match["language"], match["text"])


def line_of(text: str, position: int) -> int:
    """The number of the line of a position in a page."""
    return text.count("\n", 0, position) + 1


def commands() -> Iterator[Command]:
    """The commands of all shell blocks; a comment on a line of its own counts for the command after it."""
    for block in blocks():
        if block.language != "bash":
            continue
        above = ""
        for line in block.text.replace("\\\n", " ").splitlines():
            text, comment = split_comment(line)
            if text:
                yield Command(f"{block.page}:{block.line}", text, bool(MARK.search(comment) or MARK.search(above)))
            above = "" if text else comment


def split_comment(line: str) -> tuple[str, str]:
    """A line of shell and the comment after it; a loop has none, and its `##` is no comment."""
    if line.startswith("for "):
        return line, ""
    text, *comment = re.split(r"(?:^|\s+)(?=#\s)", line, maxsplit=1)
    return text.strip(), "".join(comment)
