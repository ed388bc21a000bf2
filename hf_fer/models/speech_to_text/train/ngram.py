"""An n-gram language model of the training transcripts, as an ARPA file for KenLM and flashlight-text:

python -m hf_fer.models.speech_to_text.train.ngram METADATA --output_file lm.arpa [--order 3] [--units words]

METADATA is a table with a transcript column, of which only the rows of `--split` are read, or a text file with one
sentence per line. No compiler is needed.
"""

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hf_fer.data.loading import DataError
from hf_fer.data.tables import find_column, is_table, need_column, read_table

from ..text_speech_to_text import to_units
from .recordings import TRANSCRIPT_COLUMNS

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
UNITS = ("words", "nfc", "nfd")
SPACE = "▁"
USUAL_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts for very small texts, whose counts of counts give none; KenLM's `--discount_fallback` has the same."""

Gram = tuple[str, ...]


class Entry(NamedTuple):
    """
    An n-gram's line.

    Args:
        probability: Probability of the last word after the others.
        backoff: Probability mass, after these words, of words that never followed them; `None` if none followed.
    """

    probability: float
    backoff: float | None


def adjusted_counts(sentences: Iterable[list[str]], order: int) -> list[Counter[Gram]]:
    """
    Counts of Kneser-Ney smoothing, for n-grams of 1 to `order` words.

    The longest n-grams, and those that begin a sentence, have their number of occurrences. The others have the number
    of different words that precede them.
    """
    occurrences: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = (BEGIN, *sentence, END)
        for size in range(1, order + 1):
            occurrences[size - 1].update(words[at : at + size] for at in range(len(words) - size + 1))
    counts = [Counter(gram[1:] for gram in longer) for longer in occurrences[1:]]
    for size, adjusted in enumerate(counts):
        for gram, count in occurrences[size].items():
            if gram[0] == BEGIN:
                adjusted[gram] = count
    counts.append(occurrences[-1])
    counts[0].pop((BEGIN,), None)
    return counts


def discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """Discounts of counts of 1, 2, and 3 or more, by equation 26 of Chen and Goodman 1999."""
    of = Counter(counts)
    if not all(of[count] for count in (1, 2, 3, 4)):
        return USUAL_DISCOUNTS
    ratio = of[1] / (of[1] + 2 * of[2])
    found = tuple(count - (count + 1) * ratio * of[count + 1] / of[count] for count in (1, 2, 3))
    return found if all(0 < value < count for count, value in enumerate(found, 1)) else USUAL_DISCOUNTS


def build_model(sentences: Iterable[list[str]], order: int) -> list[dict[Gram, Entry]]:
    """
    Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999), as Heafield et al. 2013 write it to ARPA files.

    Args:
        sentences: Words, or other tokens, of each sentence.
        order: Words of the longest n-gram; the model has fewer if no sentence is so long.

    Returns:
        For 1 to `order` words, n-gram -> its entry. In every context the probabilities of all words add up to 1.

    Raises:
        DataError: no sentence has a word, or a word is a reserved mark of ARPA files.
    """
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise DataError("there is no text to build a language model from.")
    for sentence in sentences:
        if reserved := {BEGIN, END, UNKNOWN}.intersection(sentence):
            raise DataError(f"{' '.join(sentence)!r} has the word {min(reserved)}, which is reserved in ARPA files.")
    longest = max(map(len, sentences)) + 2
    counts = adjusted_counts(sentences, min(order, longest))
    vocabulary = len(counts[0]) + 1  # with the unknown word
    lower: dict[Gram, float] = {}
    models: list[dict[Gram, float]] = []
    remainders: dict[Gram, float] = {}
    for level in counts:
        taken = discounts(level.values())
        left, totals = _remainders(level, taken)
        remainders |= left
        probabilities = {
            gram: (count - taken[min(count, 3) - 1]) / totals[gram[:-1]]
            + left[gram[:-1]] * (lower[gram[1:]] if len(gram) > 1 else 1 / vocabulary)
            for gram, count in level.items()
        }
        models.append(probabilities)
        lower = probabilities
    models[0][(UNKNOWN,)] = remainders[()] / vocabulary
    models[0][(BEGIN,)] = 0.0
    return [
        {gram: Entry(probability, remainders.get(gram)) for gram, probability in level.items()} for level in models
    ]


def _remainders(level: Counter[Gram], taken: tuple[float, float, float]) -> tuple[dict[Gram, float], dict[Gram, int]]:
    """For each context the probability mass that discounts leave to shorter contexts, and the sum of its counts."""
    totals: dict[Gram, int] = defaultdict(int)
    kinds: dict[Gram, list[int]] = defaultdict(lambda: [0, 0, 0])
    for gram, count in level.items():
        totals[gram[:-1]] += count
        kinds[gram[:-1]][min(count, 3) - 1] += 1
    shares = {
        context: sum(discount * number for discount, number in zip(taken, numbers, strict=True)) / totals[context]
        for context, numbers in kinds.items()
    }
    return shares, totals


def write_arpa(model: list[dict[Gram, Entry]], path: Path) -> None:
    """Write an ARPA file, with base-10 logarithms and sorted n-grams, so that the same text gives the same file."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n")
        for size, level in enumerate(model, 1):
            file.write(f"ngram {size}={len(level)}\n")
        for size, level in enumerate(model, 1):
            file.write(f"\n\\{size}-grams:\n")
            for gram, entry in sorted(level.items()):
                backoff = "" if entry.backoff is None or size == len(model) else f"\t{_log10(entry.backoff):.7f}"
                file.write(f"{_log10(entry.probability):.7f}\t{' '.join(gram)}{backoff}\n")
        file.write("\n\\end\\\n")


def _log10(probability: float) -> float:
    return math.log10(probability) if probability > 0 else -99.0


def sentences_of(path: str | Path, split: str, units: str) -> list[list[str]]:
    """
    The sentences of a table's split, or of a text file, as words or as a recogniser's characters.

    Args:
        path: A table with a transcript column and maybe `split`; or a text file in UTF-8 with one sentence per line.
        split: The split to read, if the table has splits.
        units: `words`, or `nfc` and `nfd` as in `to_units`, with "▁" for a space.

    Raises:
        DataError: the file cannot be read, or has no row of the split.
    """
    if is_table(path):
        table = read_table(path)
        texts = table[need_column(table, TRANSCRIPT_COLUMNS, "transcript", str(path))]
        splits = find_column(table, ("split",))
        if splits:
            texts = texts[table[splits].eq(split)]
            if texts.empty:
                known = sorted(table[splits].dropna().unique())
                raise DataError(f"{path}: no row has split {split!r}; there are {known}. Give --split.")
        lines = list(texts.dropna())
    else:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a text file in UTF-8 ({error}).") from error
    if units == "words":
        return [to_units(line, "nfc").split() for line in lines]
    return [list(to_units(" ".join(line.split()), units).replace(" ", SPACE)) for line in lines]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hf-fer ngram", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("metadata", help="table with a transcript column, or a text file with one sentence per line")
    parser.add_argument("--output_file", required=True, type=Path, help="ARPA file to write")
    parser.add_argument("--order", type=int, default=3, help="words of the longest n-gram (3)")
    parser.add_argument("--units", choices=UNITS, default="words", help="words, or a recogniser's characters (words)")
    parser.add_argument("--split", default="train", help="rows of a table to read (train)")
    args = parser.parse_args(argv)
    try:
        if args.order < 2:
            raise DataError(f"--order must be 2 or more, got {args.order}: KenLM reads no models of single words.")
        sentences = sentences_of(args.metadata, args.split, args.units)
        model = build_model(sentences, args.order)
        args.output_file.parent.mkdir(parents=True, exist_ok=True)
        write_arpa(model, args.output_file)
    except (DataError, OSError) as error:
        print(f"hf_fer: error: {error}", file=sys.stderr)
        return 2
    sizes = ", ".join(f"{len(level):,} of {size}" for size, level in enumerate(model, 1))
    print(f"{args.output_file}: n-grams of {len(sentences):,} sentences: {sizes}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
