"""Recordings one after the other, as training hears them: words that are said alone get neighbours."""

import random
from collections import defaultdict
from typing import Any

from datasets import Dataset


class Companions:
    """
    Further recordings of the same speaker, to follow one of the training split.

    Args:
        rows: With `audio`, `transcript`, `seconds` and, where speakers are known, `group`.
        most: How many follow at most.
        max_seconds: How long a recording and its companions are together at most.
    """

    def __init__(self, rows: Dataset, most: int, max_seconds: float):
        self.most, self.max_seconds = most, max_seconds
        self.of_speaker = defaultdict(list)
        speakers = rows["group"] if "group" in rows.column_names else [None] * len(rows)
        columns = (rows[name] for name in ("audio", "transcript", "seconds"))
        for speaker, audio, transcript, seconds in zip(speakers, *columns, strict=True):
            self.of_speaker[speaker].append({"audio": audio, "transcript": transcript, "seconds": seconds})

    def draw(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Companions of a row, each number from 0 to `most` as likely; call it inside `seeded`."""
        candidates, left, drawn = self.of_speaker[row.get("group")], self.max_seconds - row["seconds"], []
        for companion in random.choices(candidates, k=random.randint(0, self.most)):
            if companion["seconds"] <= left:
                drawn.append(companion)
                left -= companion["seconds"]
        return drawn
