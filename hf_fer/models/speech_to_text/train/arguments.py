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
from .model import FEATURES, MEL_BINS, PRESETS, WINDOW_MS
from .vocabulary import UNITS

TRAINING_TRANSCRIPTS = "train"
STRENGTHS = {"stretch": 0.0, "resample": 0.1, "shift_fraction": 0.0}
"""Defaults that differ from the shared augmentation: speed changes by resampling, and no shift cuts off a word."""


@dataclass
class SpeechToTextModelArguments(ModelArguments):
    """Which model; without `model_name_or_path`, a `ParakeetForCTC` is trained from scratch."""

    model_size: Literal[tuple(PRESETS)] = field(default="medium", metadata={"help": "Size of a model from scratch."})
    encoder_backbone: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint from which a new model takes its encoder and its sizes: any model with a Parakeet "
            "encoder, such as a recogniser or a model of sound and pictures."
        },
    )
    units: Literal[UNITS] = field(
        default="nfc",
        metadata={"help": "Units of the vocabulary: nfc characters, nfd letters and separate marks, or bpe pieces."},
    )
    features: Literal[FEATURES] = field(
        default="parakeet",
        metadata={
            "help": "Log-mel features of a model from scratch: parakeet normalises each band over the recording. lasr "
            "(or nemotron, for any sampling_rate) does not: it suits recordings of a word or two, whose mean depends "
            "much on the words."
        },
    )
    mel_bins: int = field(
        default=MEL_BINS,
        metadata={
            "help": "Number of log-mel bands of a model from scratch; fewer do not resolve the harmonics of a voice."
        },
    )
    window_ms: float = field(
        default=WINDOW_MS,
        metadata={
            "help": "Length in ms of the window of a feature of a model from scratch; a longer one resolves the "
            "harmonics of a voice."
        },
    )
    vocab_size: int = field(default=500, metadata={"help": "Largest vocabulary of bpe."})

    def __post_init__(self):
        super().__post_init__()
        if self.encoder_backbone and self.model_name_or_path:
            raise RecipeError("model_name_or_path has an encoder already: leave encoder_backbone out.")
        if self.vocab_size < 10:
            raise RecipeError(f"vocab_size must be at least 10, got {self.vocab_size}.")


@dataclass
class SpeechToTextDataArguments(DataArguments):
    """Which recordings, which form of their transcripts, and how sound is augmented."""

    more_datasets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tables that are used together with dataset, such as one of pseudo-label; each is split by itself."
        },
    )
    file_column: str | None = field(
        default=None, metadata={"help": "Column of the files; found by the usual names if unset."}
    )
    transcript_column: str | None = field(
        default=None, metadata={"help": "Column of the transcripts; found by the usual names if unset."}
    )
    speaker_column: str | None = field(
        default=None,
        metadata={"help": "Column of the speakers, each kept in one split; found by the usual names if unset."},
    )
    transcript_form: Literal["plain", "as_is"] = field(
        default="plain",
        metadata={"help": "plain: lower case without punctuation; as_is: only Unicode normalisation (NFC)."},
    )
    sampling_rate: int = field(default=16000, metadata={"help": "Rate in Hz to which sound is resampled."})
    max_seconds: float = field(default=30.0, metadata={"help": "Longer recordings are left out."})
    augment: bool = field(default=True, metadata={"help": "Augment the training split."})
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "JSON object of strengths; its fields are those of hf_fer.data.augment."}
    )
    join_recordings: int = field(
        default=0,
        metadata={
            "help": "How many further recordings of the same speaker (of any, where speakers are not known) follow a "
            "training recording at most."
        },
    )
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Largest number of seconds of a training batch, padding included; replaces "
            "per_device_train_batch_size."
        },
    )
    cache: Literal["none", "decoded"] = field(
        default="none",
        metadata={"help": "Keep decoded sound on disk for later epochs and runs: 4 bytes a sample."},
    )
    blank_steps: int = field(
        default=1000, metadata={"help": "Steps after which a warning says that a model writes almost only blanks."}
    )

    abstention_risk: float = field(
        default=0.05,
        metadata={
            "help": "Largest share of wrong words above the abstention threshold, which is chosen on validation."
        },
    )
    beam_width: int = field(
        default=0, metadata={"help": "Width of a beam search that the report also scores; 0 for greedy only."}
    )
    lm: str | None = field(
        default=None,
        metadata={
            "help": "KenLM file with which the report also scores beam search, or 'train' for an n-gram model of the "
            "training transcripts."
        },
    )
    lm_order: int = field(default=3, metadata={"help": "Order of the n-gram model of lm 'train'."})
    lm_weight: float = field(default=0.5, metadata={"help": "Weight of the language model's log-probability."})
    word_score: float = field(default=0.0, metadata={"help": "Added for each word of a search with a language model."})

    def __post_init__(self):
        super().__post_init__()
        self.check_decoders()
        self.check_batches()
        overrides = json_object("augmentation", self.augmentation)
        for name in overrides:
            check_choice("augmentation", name, (item.name for item in dataclasses.fields(Augmentation)))
        self.augmentation = {**STRENGTHS, **overrides}
        Augmentation(**self.augmentation)  # raises RecipeError for a strength that cannot be

    def check_batches(self) -> None:
        """Raises `RecipeError` where batches by seconds cannot be obeyed."""
        if self.batch_seconds is None:
            return
        if self.batch_seconds < self.max_seconds:
            raise RecipeError(
                f"batch_seconds {self.batch_seconds:g} is less than max_seconds {self.max_seconds:g}: a batch could "
                "not hold such a recording. Raise it, or lower --max_seconds."
            )
        if self.join_recordings:
            raise RecipeError(
                "batch_seconds and join_recordings do not go together: how long joined recordings are is drawn when "
                "a batch is read. Leave one of them out."
            )

    def check_decoders(self) -> None:
        """
        Raises:
            RecipeError: a value is out of range, or the language model does not exist.
        """
        if self.beam_width < 0:
            raise RecipeError(f"beam_width must be 0 or more, got {self.beam_width}.")
        if not 0 <= self.abstention_risk < 1:
            raise RecipeError(f"abstention_risk must be in [0, 1), got {self.abstention_risk}.")
        if self.lm_order < 2:
            raise RecipeError(
                f"lm_order must be 2 or more, because KenLM reads no smaller order, got {self.lm_order}."
            )
        if self.lm and not self.beam_width:
            raise RecipeError("lm needs a beam search: give --beam_width, such as 64.")
        if self.lm not in (None, TRAINING_TRANSCRIPTS) and not Path(self.lm).is_file():
            raise RecipeError(f"lm: {self.lm} is neither a file nor {TRAINING_TRANSCRIPTS!r}.")

    def check_libraries(self) -> None:
        """Raises `RecipeError` where the libraries of the decoders are not installed."""
        needed = ["flashlight"] * bool(self.beam_width) + ["kenlm"] * bool(self.lm)
        if missing := [name for name in needed if find_spec(name) is None]:
            raise RecipeError(f"beam_width needs {' and '.join(missing)}: pip install 'hf_fer[lm]'.")

    def searches(self, train_model: Path) -> dict[str, Search]:
        """
        The decoders that the report compares, by name.

        Args:
            train_model: File of the language model of the training transcripts.
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
        """Encoding and delimiter of the manifest."""
        return TableFormat(self.encoding, self.delimiter)


def is_recordings(path: str) -> bool:
    """Whether a path is a file, or has a table's suffix."""
    return Path(path).is_file() or is_table(path)
