"""The vocabulary of a recogniser, from the training split: characters, separate letters and marks, or BPE pieces."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ParakeetTokenizer, PreTrainedTokenizerBase

UNITS = ("nfc", "nfd", "bpe")
SPACE, BLANK, UNKNOWN = "▁", "<pad>", "<unk>"
VIETNAMESE_VOWELS = "aăâeêioôơuưy"
TONE_MARKS = "\u0300\u0301\u0303\u0309\u0323"


def build_tokenizer(transcripts: Iterable[str], units: str, vocab_size: int) -> ParakeetTokenizer:
    """
    A tokenizer that knows only the transcripts' characters; its blank is the padding token, index 0.

    Decoded text is in NFC for all units, also on machines without hf_fer.

    Args:
        transcripts: Transcripts of the training split.
        units: `nfc`, characters; `nfd`, separate base letters and marks; `bpe`, pieces of NFC text.
        vocab_size: Largest vocabulary of `bpe`, including the characters.
    """
    form, is_bpe = "NFD" if units == "nfd" else "NFC", units == "bpe"
    transcripts = [unicodedata.normalize(form, text) for text in transcripts]
    alphabet = sorted({character for text in transcripts for character in text} - {" "})
    if is_bpe:
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    else:
        names = [BLANK, UNKNOWN, SPACE, *alphabet]
        vocabulary = {name: index for index, name in enumerate(names)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    unicode_form = normalizers.NFD() if units == "nfd" else normalizers.NFC()
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([unicode_form, spaces, normalizers.Strip()])
    # Pieces of `bpe` do not cross words, and the first word also begins with a space mark.
    scheme = {"prepend_scheme": "always" if is_bpe else "never", "split": is_bpe}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, **scheme)
    steps = [decoders.Metaspace(SPACE, **scheme), decoders.Fuse()]
    steps += [decoders.Replace(parts, whole) for parts, whole in compositions(transcripts)] if units == "nfd" else []
    tokenizer.decoder = decoders.Sequence(steps)
    if is_bpe:
        special = [BLANK, UNKNOWN]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(transcripts, trainer)
    return ParakeetTokenizer(tokenizer_object=tokenizer, pad_token=BLANK, unk_token=UNKNOWN)


def compositions(transcripts: Iterable[str]) -> list[tuple[str, str]]:
    """
    Pairs of separate letters and marks and their NFC letter, longest first, for the transcripts and all of Vietnamese.

    Marks are in canonical order and in reverse order, because a model may write either.
    """
    vowels = [vowel + mark for vowel in VIETNAMESE_VOWELS for mark in ("", *TONE_MARKS)]
    texts = [unicodedata.normalize("NFC", text) for text in transcripts]
    letters = {unicodedata.normalize("NFC", letter) for letter in vowels} | {
        letter for text in texts for letter in text
    }
    pairs = {}
    for letter in sorted(letters):
        base, *marks = unicodedata.normalize("NFD", letter)
        if marks:
            pairs[base + "".join(marks)] = letter
            pairs[base + "".join(reversed(marks))] = letter
    return sorted(pairs.items(), key=lambda pair: (-len(pair[0]), pair[0]))


def outside_vocabulary(transcripts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Counter[str]:
    """Characters that the tokenizer cannot write, each with the number of transcripts that have it."""
    transcripts = list(transcripts)
    unknown = tokenizer.unk_token_id
    letters = {letter for text in transcripts for letter in text if not letter.isspace()}
    lacking = {letter for letter in letters if unknown in encode(tokenizer, letter)}
    return Counter(letter for text in transcripts for letter in lacking.intersection(text))


def encode(tokenizer: PreTrainedTokenizerBase, transcript: str) -> list[int]:
    """The tokens of a transcript that the model shall write, without special tokens."""
    return tokenizer(transcript, add_special_tokens=False)["input_ids"]


def frames_needed(tokens: list[int]) -> int:
    """The fewest CTC frames that can write the tokens: one per token, and a blank between equal neighbours."""
    return len(tokens) + sum(first == second for first, second in pairwise(tokens))
