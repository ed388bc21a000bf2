"""How run.py trains speech_to_text: its recipe fields, data, model and report."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    EvalPrediction,
    LasrFeatureExtractor,
    ParakeetFeatureExtractor,
    ParakeetProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
    Wav2Vec2Processor,
)

from hf_fer.data.augment import Augmentation, EpochClock
from hf_fer.data.loading import (
    DataError,
    LoadedData,
    cache_dir,
    enforce_skip_limit,
    to_splits,
    warned,
)
from hf_fer.data.remarks import with_remarks
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.runtime.callbacks import EpochCallback
from hf_fer.runtime.checkpoints import start_anew
from hf_fer.runtime.evaluation_order import evaluation_order
from hf_fer.task.base import Task
from hf_fer.task.steps import leave_out, split_rows
from hf_fer.weights.starting_points import NOT_LOADABLE, load_model, nothing_anew, read

from ..alignment_speech_to_text import text_of
from ..recognition_speech_to_text import Search
from .arguments import TRAINING_TRANSCRIPTS, SpeechToTextDataArguments, SpeechToTextModelArguments
from .blanks import BlankWatch, advice, is_stuck
from .demo import DEMO_NOTICE, make_demo
from .listening import listen
from .model import best_frames, new_extractor, new_model, prepare, preset_config, samples_per_frame
from .ngram import build_model, write_arpa
from .recordings import RecordingCollator, Recordings, RecordingTransform, measure, read_recordings, written
from .report import Recognised, write_tables
from .vocabulary import build_tokenizer, encode, frames_needed, outside_vocabulary

logger = logging.getLogger(__name__)

HEADS = ("ctc_head", "lm_head")
LENGTHS_PER_SECOND = 100
LISTED_CHARACTERS = 20


class SpeechToTextTask(Task):
    """Speech recognition by connectionist temporal classification (CTC)."""

    model_arguments = SpeechToTextModelArguments
    data_arguments = SpeechToTextDataArguments
    metric_names = ("wer", "cer", "blank_share")
    primary_metric = "wer"
    lower_is_better = ("wer", "cer", "blank_share")
    hub_task = "automatic-speech-recognition"
    own_loss = "CTC has no class whose probability could be spread"
    file_columns = ("audio",)
    target_column = "transcript"
    searched_fields = ("model_size",)
    lora_targets = r".*layers\.\d+\.(self_attn|attention)\.(q|k|v|o|out)_proj"
    # Words, names of speakers and utterances stay on the machine.
    shareable = (
        *Task.shareable,
        "letter_confusions.csv",
        "errors_by_length.csv",
        "errors_by_accent.csv",
        "errors_by_confidence.csv",
        "word_confidence.csv",
        "word_risk_coverage.png",
        "decoders.csv",
        "tones.png",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clock = EpochClock()
        self.processor: ProcessorMixin | None = None
        self.recognised: dict[str, Recognised] = {}
        self.spoken: list[str] = []

    @classmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        args = SpeechToTextDataArguments()
        rows = read_recordings(path, form).rename(columns={"audio": "path"})
        found = measure(rows["path"], args.sampling_rate, args.max_seconds, args.check_workers)
        unusable = [{"path": name, "reason": reason} for name, reason in found.items() if isinstance(reason, str)]
        empty = rows["path"][rows["transcript"].map(lambda text: not written(text, args.transcript_form))]
        return rows.drop(columns="transcript"), [
            *unusable,
            *({"path": name, "reason": "its transcript is empty"} for name in empty),
        ]

    def load_data(self) -> LoadedData:
        args = self.data_args
        rows, notes = self.read_rows()
        total = len(rows)
        rows, skipped = self.drop_unusable(rows)
        if rows.empty:
            enforce_skip_limit(skipped, total, args.max_skipped_fraction)
            raise DataError(f"{args.dataset}: no usable recordings are left.")
        # There is no class to stratify splits by.
        found = split_rows(self, rows.assign(label=""))
        rows = found.rows.drop(columns="label")
        rows, misfits, vocabulary_notes = self.fit_transcripts(rows)
        skipped += misfits
        leave_out(self, skipped, total)
        rows["length"] = (rows["seconds"] * LENGTHS_PER_SECOND).round().astype(int)
        hours = rows.groupby("split", sort=False)["seconds"].sum() / 3600
        spoken = ", ".join(f"{split} {value:.2f}" for split, value in hours.items())
        notes += [*found.notes, f"Hours of sound: {spoken}.", *vocabulary_notes]
        data = LoadedData(to_splits(rows), [], found.protocol, skipped, notes, found.absent)
        return with_remarks(data, learns_classes=False)

    def read_rows(self) -> tuple[pd.DataFrame, list[str]]:
        """Rows of the manifest, with transcripts as they are learnt; and notes for the report."""
        args, notes, path = self.data_args, [], self.data_args.dataset
        if path == "demo":
            path, notes = str(make_demo(cache_dir("demo"))), [DEMO_NOTICE]
        elif not args.is_table:
            raise DataError(f"dataset: {path} is no table of recordings; give a CSV, TSV, JSONL or Parquet file.")
        columns = {name: getattr(args, name) for name in ("file_column", "transcript_column", "speaker_column")}
        rows = read_recordings(path, args.form, **columns)
        changed = rows["transcript"].map(lambda text: written(text, args.transcript_form))
        different = int((changed != rows["transcript"]).sum())
        if different:
            notes.append(
                f"{different} of {len(rows)} transcripts were changed by transcript_form {args.transcript_form!r}."
            )
        return rows.assign(transcript=changed), notes

    def drop_unusable(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """The rows that can be used, with `seconds`, and why the others cannot."""
        args = self.data_args
        found = measure(rows["audio"], args.sampling_rate, args.max_seconds, args.check_workers)
        reasons = []
        for path, transcript in zip(rows["audio"], rows["transcript"], strict=True):
            reason = found[path] if isinstance(found[path], str) else None
            if reason is None and not transcript:
                reason = "its transcript is empty"
            reasons.append(reason)
        good = np.array([reason is None for reason in reasons], dtype=bool)
        skipped = [
            {"path": path, "reason": reason} for path, reason in zip(rows["audio"], reasons, strict=True) if reason
        ]
        rows = rows[good].reset_index(drop=True)
        return rows.assign(seconds=[float(found[path]) for path in rows["audio"]]), skipped

    def fit_transcripts(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]], list[str]]:
        """
        The rows without training transcripts that need more frames than their sound has; what was left out, and notes.

        Transcripts of other splits stay, and what cannot be recognised of them counts as an error.
        """
        is_train = (rows["split"] == "train").to_numpy()
        self.spoken = list(rows["transcript"][is_train])
        if self.data_args.lm == TRAINING_TRANSCRIPTS and not self.spoken:
            raise DataError(f"lm {TRAINING_TRANSCRIPTS!r}: there is no training split.")
        processor = self.make_processor(list(rows["transcript"][is_train]))
        ratio = samples_per_frame(self.start_config(), getattr(processor.feature_extractor, "hop_length", 1))
        frames = np.ceil(rows["seconds"] * processor.feature_extractor.sampling_rate / ratio).to_numpy()
        needed = np.array([frames_needed(encode(processor.tokenizer, text)) for text in rows["transcript"]])
        misfit, notes = needed > frames, []
        skipped = [
            {
                "path": rows["audio"].iloc[index],
                "reason": f"its transcript needs {needed[index]} frames, and its sound has {int(frames[index])}",
            }
            for index in np.flatnonzero(misfit & is_train)
        ]
        if (others := int((misfit & ~is_train).sum())) > 0:
            notes += warned(f"{others} transcripts that are scored need more frames than their sound has.")
        lacking = outside_vocabulary(rows["transcript"][~is_train], processor.tokenizer)
        if lacking:
            named = ", ".join(f"{letter!r} ({count})" for letter, count in lacking.most_common(LISTED_CHARACTERS))
            notes += warned(
                f"{len(lacking)} characters of transcripts that are scored are not in the vocabulary, which is "
                f"that of the training split, and count as errors: {named}."
            )
        return rows[~(misfit & is_train)].reset_index(drop=True), skipped, notes

    def start_config(self) -> PreTrainedConfig | None:
        """The configuration of the checkpoint that the recipe starts from."""
        path = self.model_args.model_name_or_path
        return read(AutoConfig.from_pretrained, path) if path else None

    def make_processor(self, transcripts: list[str]) -> ProcessorMixin:
        """
        The checkpoint's processor, or that of a new model; the vocabulary is the training split's.

        Args:
            transcripts: Of the training split.

        Raises:
            DataError: there are none to build a vocabulary from.
            RecipeError: the checkpoint's cannot be loaded.
        """
        args = self.model_args
        tokenizer = None
        if args.model_name_or_path:
            extractor = read(AutoFeatureExtractor.from_pretrained, args.model_name_or_path)
            tokenizer = self.known_tokenizer(transcripts)
        else:
            try:
                extractor = new_extractor(self.data_args.sampling_rate, args.features)
            except ValueError as error:
                raise RecipeError(f"features: {error}.") from error
        if tokenizer is None:
            if not transcripts:
                raise DataError("There is no training split to build a vocabulary from; give --model_name_or_path.")
            tokenizer = build_tokenizer(transcripts, args.units, args.vocab_size)
        if isinstance(extractor, LasrFeatureExtractor | ParakeetFeatureExtractor):
            return ParakeetProcessor(extractor, tokenizer, decoder_type="ctc")
        return Wav2Vec2Processor(extractor, tokenizer)

    def known_tokenizer(self, transcripts: list[str]) -> PreTrainedTokenizerBase | None:
        """The checkpoint's tokenizer, or `None` where training takes a new one, which is said."""
        path, trains = self.model_args.model_name_or_path, self.training_args.do_train
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
        except NOT_LOADABLE as error:
            if not trains:
                raise RecipeError(f"model_name_or_path: {path} has no tokenizer ({error}).") from error
            return None
        if not trains or ("units" not in self.given and not outside_vocabulary(transcripts, tokenizer)):
            return tokenizer
        logger.warning("%s writes other characters than the training split: its head starts anew.", path)
        return None

    def build_processor(self, data: LoadedData) -> ProcessorMixin:
        train = data.splits.get("train")
        self.processor = self.make_processor([] if train is None else list(train["transcript"]))
        return self.processor

    def build_model(self, data: LoadedData, processor: ProcessorMixin) -> PreTrainedModel:
        args, tokenizer = self.model_args, processor.tokenizer
        if args.model_name_or_path:
            model = self.started_model(processor)
        else:
            hop = processor.feature_extractor.hop_length
            try:
                config = preset_config(
                    args.model_size, len(tokenizer), tokenizer.pad_token_id, hop, args.config_overrides
                )
            except (StrictDataclassError, ValueError, TypeError) as error:
                raise RecipeError(f"config_overrides: {error}") from error
            if args.attn_implementation:
                config._attn_implementation = args.attn_implementation
            model = new_model(config, args.features)
        modules = dict(model.named_modules())
        for part in args.freeze or []:
            check_choice("freeze part", part, [name for name in modules if name])
            modules[part].requires_grad_(False)
        return prepare(model)

    def started_model(self, processor: ProcessorMixin) -> PreTrainedModel:
        """The checkpoint's model, with a new head where the vocabulary is another."""
        args, tokenizer, config = self.model_args, processor.tokenizer, self.start_config()
        known = self.same_vocabulary(tokenizer)
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        config.ctc_loss_reduction, config.ctc_zero_infinity = "mean", True
        for name, value in args.config_overrides.items():
            check_choice("config_overrides field", name, config.to_dict())
            setattr(config, name, value)
        if hasattr(config, "encoder_config"):
            hop = processor.feature_extractor.hop_length
            config.inputs_to_logits_ratio = samples_per_frame(config, hop)
            config.encoder_config.layerdrop = 0.0
        elif hasattr(config, "layerdrop"):
            config.layerdrop = 0.0
        options = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
        model = load_model(
            AutoModelForCTC,
            args.model_name_or_path,
            config=config,
            anew=nothing_anew if known else lambda name: name.startswith(HEADS) or name.endswith("masked_spec_embed"),
            **options,
        )
        if not known:
            start_anew(*(part for name, part in model.named_children() if name in HEADS))
        return model

    def same_vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the tokenizer is the checkpoint's own."""
        try:
            return (
                AutoTokenizer.from_pretrained(self.model_args.model_name_or_path).get_vocab() == tokenizer.get_vocab()
            )
        except NOT_LOADABLE:
            return False

    def with_transforms(self, splits: DatasetDict, processor: ProcessorMixin) -> DatasetDict:
        args = self.data_args
        plain = RecordingTransform(processor, self.skipped_file, args.max_seconds)
        augmentation = Augmentation(**args.augmentation) if args.augment else None
        augmented = RecordingTransform(
            processor, self.skipped_file, args.max_seconds, augmentation, self.training_args.seed, self.clock
        )
        return DatasetDict(
            {
                split: Recordings.of(data).with_transform(augmented if split == "train" else plain)
                for split, data in splits.items()
            }
        )

    def collator(self, processor: ProcessorMixin) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        extractor = processor.feature_extractor
        return RecordingCollator(extractor.model_input_names[0], bool(extractor.return_attention_mask))

    def before_gathering(self, processor: ProcessorMixin) -> Callable[[Any, Any], Any]:
        return best_frames

    def texts(self, prediction: EvalPrediction) -> tuple[list[str], list[str]]:
        """What was said, as far as the vocabulary has it, and what was recognised; of files that were read."""
        tokenizer = self.processor.tokenizer
        frames, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        heard = [text_of(row[row >= 0], tokenizer) for row in frames]
        said = [tokenizer.decode(row[row >= 0].tolist(), group_tokens=False).strip() for row in labels]
        return said, heard

    def full_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, Any]:
        said, heard = self.texts(prediction)
        rows = pd.DataFrame({"transcript": said, "recognised": heard})
        return {**Recognised.of(rows[rows["transcript"] != ""]).metrics(), "blank_share": self.blank_share(prediction)}

    def blank_share(self, prediction: EvalPrediction) -> float:
        """Part of the frames, padding aside, of which the best token is the blank."""
        frames = np.asarray(prediction.predictions)
        return float((frames[frames >= 0] == self.processor.tokenizer.pad_token_id).mean())

    def callbacks(self) -> list[TrainerCallback]:
        return [EpochCallback(self.clock), BlankWatch(self.data_args.blank_steps)]

    def split_metrics(
        self, split: str, data: Dataset, prediction: EvalPrediction, labels: list[str]
    ) -> dict[str, Any]:
        """Scores against the transcripts themselves, characters that the vocabulary lacks among them."""
        rows = data.with_format(None).to_pandas()
        order = evaluation_order(self.training_args, list(rows["length"]))
        said, heard = self.texts(prediction)
        rows = rows.iloc[order].reset_index(drop=True).assign(recognised=heard)
        read = np.array(said) != ""
        self.check_order(rows["transcript"][read], np.array(said)[read])
        rows = rows[read].sort_values("index").reset_index(drop=True)
        self.recognised[split] = Recognised.of(rows)
        metrics = {**self.recognised[split].metrics(), "blank_share": self.blank_share(prediction)}
        metrics["real_time_factor"] = prediction.metrics[f"{split}_runtime"] / float(rows["seconds"].sum())
        return metrics

    def check_order(self, transcripts: pd.Series, said: np.ndarray) -> None:
        """Raises `RuntimeError` where predictions are of other rows than those they are compared with."""
        tokenizer = self.processor.tokenizer
        expected = [tokenizer.decode(encode(tokenizer, text), group_tokens=False).strip() for text in transcripts]
        if expected != list(said):
            raise RuntimeError("The Trainer evaluated in another order than that of the data.")

    def detail_metrics(
        self, split: str, rows: Dataset, prediction: EvalPrediction, model: PreTrainedModel
    ) -> dict[str, Any]:
        """Intervals over speakers, each decoder's scores, how sure words are, and a warning of blanks alone."""
        recognised, share = self.recognised[split], self.blank_share(prediction)
        if not self.training_args.should_save:
            return recognised.intervals()  # the first process writes the report
        recognised.heard = listen(
            model, self.processor, recognised.rows["audio"], self.searches(), self.data_args.max_seconds
        )
        decoders = recognised.by_decoder()
        speed = decoders.pop("greedy")["real_time_factor"]
        stuck = [advice(share)] if is_stuck(share, recognised.words.rate) else []
        return {
            **recognised.intervals(),
            "inference_real_time_factor": speed,
            **decoders,
            "word_confidence": recognised.word_confidence().metrics(),
            **({"warnings": stuck} if stuck else {}),
        }

    def searches(self) -> dict[str, Search]:
        """The decoders that the report compares; writes the language model of the training transcripts first."""
        path = self.skipped_file.parent / "train.arpa"
        if self.data_args.lm == TRAINING_TRANSCRIPTS:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_arpa(build_model([text.split() for text in self.spoken], self.data_args.lm_order), path)
        return self.data_args.searches(path)

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        return write_tables(folder, self.recognised) if self.recognised else {}

    def memory_hints(self) -> list[str]:
        hints = [f"--max_seconds {self.data_args.max_seconds / 2:g} (now {self.data_args.max_seconds:g})"]
        smaller = {"strong": "medium", "medium": "weak"}.get(self.model_args.model_size)
        if smaller and not self.model_args.model_name_or_path:
            hints.append(f"--model_size {smaller} (now {self.model_args.model_size})")
        return hints

    def card_example(self, repo_id: str) -> str:
        return (
            "import hf_fer\n"
            "from transformers import pipeline\n\n"
            f'recognise = pipeline("timed-speech-recognition", model="{repo_id}")\n'
            'recognise("recording.wav")  # text, and words with start, end and confidence\n\n'
            "# or, without hf_fer, the text alone\n"
            f'pipeline("automatic-speech-recognition", model="{repo_id}")("recording.wav")'
        )
