"""The recipe fields that language_id adds."""

from dataclasses import dataclass, field
from typing import Literal

from hf_fer.data.loading import DataError
from hf_fer.recipe.arguments import DataArguments, ModelArguments, RecipeError

from . import text
from .languages import canonical_code


@dataclass
class LanguageIdModelArguments(ModelArguments):
    """Which model; without `model_name_or_path`, a small one from scratch with a tokenizer of its own."""

    vocab_size: int = field(default=32000, metadata={"help": "Pieces of a tokenizer that is trained here, at most."})

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 300:
            raise RecipeError(
                f"vocab_size must be at least 300 (256 bytes and the special tokens), got {self.vocab_size}."
            )


@dataclass
class LanguageIdDataArguments(DataArguments):
    """Which texts, how they are cleaned, split, cut and reported on."""

    text_column: str | None = field(default=None, metadata={"help": "Column of the texts; the usual names if unset."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the languages; the usual if unset."})
    source_column: str | None = field(
        default=None, metadata={"help": "Column of sites or documents, kept on one side; the usual names if unset."}
    )
    text_unit: Literal["document", "line"] = field(
        default="document", metadata={"help": "Whether a .txt file is one text or one per line."}
    )
    label_codes: Literal["iso639", "as_is"] = field(
        default="iso639", metadata={"help": "Read labels as ISO 639-1, 639-3 or English names, or as they are."}
    )
    languages: list[str] | None = field(default=None, metadata={"help": "Keep these languages only."})
    held_out_languages: list[str] | None = field(
        default=None, metadata={"help": "Languages kept out of training, to see whether they are called unknown."}
    )
    focus_languages: list[str] | None = field(default=None, metadata={"help": "Languages with a sub-report."})
    min_letters: int = field(default=2, metadata={"help": "Texts with fewer letters are left out."})
    near_duplicate_threshold: float | None = field(
        default=0.8, metadata={"help": "Jaccard similarity from which a text is too near one of test; unset for off."}
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "Size of a validation split that is drawn."})
    test_fraction: float = field(default=0.1, metadata={"help": "Size of a test split that is drawn."})
    max_length: int = field(default=512, metadata={"help": "Tokens of a window."})
    overlap: int = field(default=64, metadata={"help": "Tokens that neighbouring windows share."})
    short_copies: int = field(default=0, metadata={"help": "Copies of a training text, cut short, per epoch."})
    short_lengths: list[int] = field(
        default_factory=lambda: [5, 100], metadata={"help": "Fewest and most characters of such a copy."}
    )
    token_dropout: float = field(default=0.0, metadata={"help": "Part of the training tokens that is hidden."})
    accepted_fraction: float = field(
        default=0.98, metadata={"help": "Part of the validation texts that the unknown threshold lets pass."}
    )
    noise_confidence: float = field(
        default=0.9, metadata={"help": "From which a disputed label is listed as suspected noise."}
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
        """One of the language lists with its codes as the data has them."""
        values = getattr(self, name) or []
        if self.label_codes == "as_is":
            return list(values)
        try:
            return [canonical_code(value) for value in values]
        except DataError as error:
            raise RecipeError(f"{name}: {error}") from error

    @property
    def form(self) -> text.TextFormat:
        """How the files are read."""
        return text.TextFormat(
            self.text_column,
            self.label_column,
            self.source_column,
            self.encoding,
            self.delimiter,
            self.text_unit,
        )
