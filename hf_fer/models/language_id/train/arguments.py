"""The recipe fields that language_id adds."""

from dataclasses import dataclass, field
from typing import Literal

from hf_fer.data.loading import DataError
from hf_fer.recipe.arguments import DataArguments, ModelArguments, RecipeError

from . import text
from .languages import canonical_code


@dataclass
class LanguageIdModelArguments(ModelArguments):
    """Choice of the model; without `model_name_or_path`, a small one and its tokenizer are trained from scratch."""

    architecture: Literal["transformer", "ngrams"] = field(
        default="transformer",
        metadata={
            "help": "New model: one layer over word pieces, or weights of character n-grams that start from their "
            "counts."
        },
    )
    ngram_smoothing: float = field(
        default=0.01, metadata={"help": "Added to each n-gram's count, for the start from naive Bayes."}
    )
    ngram_discount: float = field(
        default=0.75,
        metadata={"help": "Subtracted from each count of an n-gram, for the start from a language model."},
    )
    naive_bayes_share: float = field(
        default=0.2, metadata={"help": "Weight of naive Bayes beside the language model in the start."}
    )
    ngram_min_counts: list[int] = field(
        default_factory=lambda: [1, 1, 1, 1, 2, 3],
        metadata={"help": "Fewest occurrences of kept n-grams of 1, 2, ... characters; the last is for longer ones."},
    )
    vocab_size: int = field(default=32000, metadata={"help": "Largest vocabulary of a tokenizer that is trained."})

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 300:
            raise RecipeError(
                f"vocab_size must be at least 300 (256 bytes and the special tokens), got {self.vocab_size}."
            )
        if not 0 < self.ngram_discount <= 1:
            raise RecipeError(f"ngram_discount must be above 0 and at most 1, got {self.ngram_discount}.")
        if not self.ngram_min_counts or min(self.ngram_min_counts) < 1:
            raise RecipeError(f"ngram_min_counts must be numbers from 1, got {self.ngram_min_counts}.")


@dataclass
class LanguageIdDataArguments(DataArguments):
    """Choice of the texts, and how they are cleaned, split, cut and reported on."""

    text_column: str | None = field(
        default=None, metadata={"help": "Column of the texts; found by the usual names if unset."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the languages; found by the usual names if unset."}
    )
    source_column: str | None = field(
        default=None,
        metadata={"help": "Column of sites or documents, each kept in one split; found by the usual names if unset."},
    )
    text_unit: Literal["document", "line"] = field(
        default="document", metadata={"help": "Whether a .txt file is one text or one per line."}
    )
    label_codes: Literal["iso639", "as_is"] = field(
        default="iso639",
        metadata={"help": "Read labels as ISO 639 codes or English names, or leave them as they are."},
    )
    languages: list[str] | None = field(default=None, metadata={"help": "Keep only these languages."})
    held_out_languages: list[str] | None = field(
        default=None, metadata={"help": "Languages left out of training, to test whether they are called unknown."}
    )
    focus_languages: list[str] | None = field(
        default=None, metadata={"help": "Languages that the report also scores on their own."}
    )
    min_letters: int = field(default=2, metadata={"help": "Texts with fewer letters are left out."})
    near_duplicate_threshold: float | None = field(
        default=0.8,
        metadata={"help": "Texts with this Jaccard similarity to a text of a later split are dropped; unset for off."},
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "Fraction drawn for validation."})
    test_fraction: float = field(default=0.1, metadata={"help": "Fraction drawn for test."})
    max_length: int = field(default=512, metadata={"help": "Tokens per window."})
    overlap: int = field(default=64, metadata={"help": "Tokens that neighbouring windows share."})
    short_copies: int = field(default=0, metadata={"help": "Shortened copies of each training text per epoch."})
    short_lengths: list[int] = field(
        default_factory=lambda: [5, 100], metadata={"help": "Fewest and most characters of a shortened copy."}
    )
    token_dropout: float = field(
        default=0.0, metadata={"help": "Fraction of training tokens replaced by the unknown token."}
    )
    accepted_fraction: float = field(
        default=0.98, metadata={"help": "Fraction of validation texts that pass the unknown threshold."}
    )
    noise_confidence: float = field(
        default=0.9, metadata={"help": "Confidence from which a contradicted label is listed as suspected noise."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.overlap < self.max_length - 2:
            raise RecipeError(f"overlap must be in [0, max_length - 2), got {self.overlap} of {self.max_length}.")
        if len(self.short_lengths) != 2 or not 1 <= self.short_lengths[0] <= self.short_lengths[1]:
            raise RecipeError(f"short_lengths must be a smallest and a largest number, got {self.short_lengths}.")
        for name in ("token_dropout", "accepted_fraction", "noise_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if self.near_duplicate_threshold is not None and not 0.3 <= self.near_duplicate_threshold <= 0.95:
            raise RecipeError(f"near_duplicate_threshold must be in [0.3, 0.95], got {self.near_duplicate_threshold}.")

    def codes(self, name: str) -> list[str]:
        """A field that lists languages, with codes written as in the data; raises `RecipeError` for unknown codes."""
        values = getattr(self, name) or []
        if self.label_codes == "as_is":
            return list(values)
        try:
            return [canonical_code(value) for value in values]
        except DataError as error:
            raise RecipeError(f"{name}: {error}") from error

    @property
    def form(self) -> text.TextFormat:
        """How texts are read from their files."""
        return text.TextFormat(
            self.text_column,
            self.label_column,
            self.source_column,
            self.encoding,
            self.delimiter,
            self.text_unit,
        )
