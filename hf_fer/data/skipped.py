"""The list of examples that a run skips, with paths relative to the data set instead of the machine's own."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from hf_fer.data.loading import DataError

logger = logging.getLogger(__name__)


def data_folder(dataset: str | None) -> Path | None:
    """Folder of a data set that is a local folder or file; `None` for one of the Hub."""
    place = Path(dataset) if dataset else None
    if place is None or not place.exists():
        return None
    return place if place.is_dir() else place.parent


def saved_path(path: str, folder: Path | None) -> str:
    """
    A file's path as the report's tables write it: relative to the folder of the data set, with `/`.

    Args:
        path: Path of a file, with or without words after it (`texts.csv row 4`). An absolute path outside `folder`
            becomes a relative one with `..`; a string that is no path is returned unchanged.
        folder: Folder of the data set; with `None`, the path is returned unchanged.
    """
    if folder is None:
        return path
    for known in (folder, folder.absolute(), folder.resolve()):
        if Path(path).is_relative_to(known):
            return Path(path).relative_to(known).as_posix()
    if not os.path.isabs(path):
        return path
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on Windows, if the file is on another drive
        return Path(path).name


@dataclass(frozen=True)
class SkippedFile:
    """
    The report's `skipped.jsonl`: one `{"path", "reason"}` per line.

    Args:
        path: Path of `skipped.jsonl`.
        folder: Folder of the data set; see `saved_path`.
    """

    path: Path
    folder: Path | None = None

    def append(self, skipped: list[dict[str, str]]) -> None:
        """Append entries; each line is one short write, so that processes may append concurrently."""
        if not skipped:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for entry in skipped:
                file.write(json.dumps(self._saved(entry), ensure_ascii=False) + "\n")
                file.flush()

    def read(self) -> list[dict[str, str]]:
        """The entries, one per file, with the reason that was found first."""
        if not self.path.is_file():
            return []
        entries: dict[str, dict[str, str]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            entries.setdefault(entry["path"], entry)
        return list(entries.values())

    def _saved(self, entry: dict[str, str]) -> dict[str, str]:
        reason = entry["reason"]
        if self.folder is not None:
            for known in (self.folder.resolve(), self.folder.absolute()):
                reason = reason.replace(f"{known}{os.sep}", "")
        return {"path": saved_path(entry["path"], self.folder), "reason": reason}


def enforce_skip_limit(skipped: list[dict[str, str]], total: int, max_fraction: float, known: int = 0) -> None:
    """
    Fail if too many examples were skipped; log a warning if there are more than `known`.

    Raises:
        DataError: more than `max_fraction` of `total` examples were skipped; the message names the first five.
    """
    if len(skipped) <= max_fraction * total:
        if len(skipped) > known:
            logger.warning("%d of %d examples were skipped; see report/skipped.jsonl.", len(skipped), total)
        return
    first = "".join(f"\n  {entry['path']}: {entry['reason']}" for entry in skipped[:5])
    more = f"\n  and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    raise DataError(
        f"{len(skipped)} of {total} examples cannot be used, over max_skipped_fraction = {max_fraction:g}. All are "
        f"listed in report/skipped.jsonl; repair or remove them, or raise --max_skipped_fraction.{first}{more}"
    )
