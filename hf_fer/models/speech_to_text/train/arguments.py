"""The recipe fields that speech_to_text adds."""

import dataclasses
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hf_fer.data.augment import Augmentation
from hf_fer.data.tables import TableFormat, is_table
from hf_fer.recipe.arguments import DataArguments, ModelArguments, RecipeError, check_choice, json_object

from ..recognition_speech_to_text import Search
from .model import FEATURES, PRESETS
from .vocabulary import UNITS

TRAINING_TRANSCRIPTS = "train"
STRENGTHS = {"stretch": 0.0, "resample": 0.1, "shift_fraction": 0.0}
"""Where the augmentation differs from the shared one: speed is changed by resampling, and no word is pushed out."""


@dataclass
class SpeechToTextModelArguments(ModelArguments):
    """Which model; without `model_name_or_path`, a `ParakeetForCTC` from scratch."""

    model_size: Literal[tuple(PRESETS)] = field(default="medium", metadata={"help": "weak, medium or strong."})
    units: Literal[UNITS] = field(
        default="nfc",
        metadata={"help": "What is written: nfc characters, nfd letters and marks apart, or bpe pieces."},
    )
    features: Literal[FEATURES] = field(
        default="parakeet",
        metadata={
            "help": "Log-mel features of a model from scratch: parakeet, each band at mean 0 and deviation 1 over the "
            "recording; lasr, as they are, for recordings of a word or two, whose mean is much of what was said."
        },
    )
    vocab_size: int = field(default=500, metadata={"help": "Pieces of bpe at most."})

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 10:
            raise RecipeError(f"vocab_size must be at least 10, got {self.vocab_size}.")


@dataclass
class SpeechToTextDataArguments(DataArguments):
    """Which recordings, what of their transcripts is learnt, and how sound is augmented."""

    file_column: str | None = field(default=None, metadata={"help": "Column of the files; the usual names if unset."})
    transcript_column: str | None = field(
        default=None, metadata={"help": "Column of the transcripts; the usual names if unset."}
    )
    speaker_column: str | None = field(
        default=None, metadata={"help": "Column of the speakers, kept on one side; the usual names if unset."}
    )
    transcript_form: Literal["plain", "as_is"] = field(
        default="plain", metadata={"help": "plain: lower case without punctuation; as_is: in Unicode form NFC alone."}
    )
    sampling_rate: int = field(default=16000, metadata={"help": "Rate in Hz that sound is resampled to."})
    max_seconds: float = field(default=30.0, metadata={"help": "Longer recordings are left out."})
    augment: bool = field(default=True, metadata={"help": "Augment the training split."})
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "JSON object of strengths that replace those of hf_fer.data.augment."}
    )
    blank_steps: int = field(
        default=1000, metadata={"help": "Steps after which a model that writes almost only blanks is called stuck."}
    )

    beam_width: int = field(
        default=0, metadata={"help": "Hypotheses of a beam search that the report scores, too; 0 for greedy alone."}
    )
    lm: str | None = field(
        default=None,
        metadata={
            "help": "A KenLM file; the report scores beam search with it, too. 'train' for an n-gram model of the "
            "training transcripts."
        },
    )
    lm_order: int = field(default=3, metadata={"help": "Words of the longest n-gram of lm 'train'."})
    lm_weight: float = field(default=0.5, metadata={"help": "Weight of the language model's log-probability."})
    word_score: float = field(default=0.0, metadata={"help": "Added for each word of a search with a language model."})

    def __post_init__(self):
        super().__post_init__()
        self.check_decoders()
        overrides = json_object("augmentation", self.augmentation)
        for name in overrides:
            check_choice("augmentation", name, (item.name for item in dataclasses.fields(Augmentation)))
        self.augmentation = {**STRENGTHS, **overrides}

    def check_decoders(self) -> None:
        """
        Raises:
            RecipeError: impossible values, or a language model that is not there.
        """
        if self.beam_width < 0:
            raise RecipeError(f"beam_width must be 0 or more, got {self.beam_width}.")
        if self.lm_order < 2:
            raise RecipeError(f"lm_order must be 2 or more, as KenLM has it, got {self.lm_order}.")
        if self.lm and not self.beam_width:
            raise RecipeError("lm needs a beam search: give --beam_width, such as 64.")
        if self.lm not in (None, TRAINING_TRANSCRIPTS) and not Path(self.lm).is_file():
            raise RecipeError(f"lm: {self.lm} is no file, and not {TRAINING_TRANSCRIPTS!r}.")

    def check_libraries(self) -> None:
        """Raises `RecipeError` where the libraries of the decoders are not installed."""
        needed = ["flashlight"] * bool(self.beam_width) + ["kenlm"] * bool(self.lm)
        if missing := [name for name in needed if find_spec(name) is None]:
            raise RecipeError(f"beam_width needs {' and '.join(missing)}: pip install 'hf_fer[lm]'.")

    def searches(self, train_model: Path) -> dict[str, Search]:
        """
        The decoders that the report compares, by name.

        Args:
            train_model: Where the language model of the training transcripts is.
        """
        found = {"greedy": Search()}
        if self.beam_width:
            found["beam"] = Search(decoder="beam", beam_width=self.beam_width)
        if self.lm:
            model = train_model if self.lm == TRAINING_TRANSCRIPTS else Path(self.lm)
            found["beam_lm"] = Search(
                decoder="beam",
                beam_width=self.beam_width,
                lm=str(model),
                lm_weight=self.lm_weight,
                word_score=self.word_score,
            )
        return found

    @property
    def form(self) -> TableFormat:
        """How the manifest is written."""
        return TableFormat(self.encoding, self.delimiter)

    @property
    def is_table(self) -> bool:
        """Whether the data is a file, or has a table's ending."""
        return Path(self.dataset).is_file() or is_table(self.dataset)
