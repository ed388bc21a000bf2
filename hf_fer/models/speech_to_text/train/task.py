"""How run.py trains speech_to_text."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from datasets import DatasetDict
from transformers import EvalPrediction, PreTrainedModel, ProcessorMixin, TrainerCallback

from hf_fer.data.augment import Augmentation, EpochClock
from hf_fer.data.loading import LoadedData
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import Task
from hf_fer.task.scoring import Evaluation, Trained, with_extra
from hf_fer.task.settings import skipped_file

from .arguments import SpeechToTextDataArguments, SpeechToTextModelArguments
from .batches import SecondsBatches
from .blanks import BlankWatch
from .building import make_model, processor_for
from .cache import RecordingCaches, decoded_recordings
from .joining import Companions
from .model import best_frames
from .preprocessing import SoundSettings
from .recordings import RecordingCollator, Recordings, RecordingTransform, measure, read_recordings, written
from .score import Answers, SpeechReport, score_split
from .source import load_recordings


class SpeechToTextTask(Task):
    """Speech recognition by connectionist temporal classification (CTC)."""

    model_arguments = SpeechToTextModelArguments
    data_arguments = SpeechToTextDataArguments
    metric_names = ("wer", "cer", "blank_share")
    primary_metric = "wer"
    lower_is_better = ("wer", "cer", "blank_share")
    preprocess_logits = staticmethod(best_frames)
    hub_task = pipeline_tag = "automatic-speech-recognition"
    own_loss = "CTC has no class probabilities to smooth"
    file_columns = ("audio",)
    weight_fields = ("encoder_backbone",)
    input_fields = ("dataset", "encoder_backbone")
    target_column = "transcript"
    searched_fields = ("model_size",)
    lora_targets = r".*layers\.\d+\.(self_attn|attention)\.(q|k|v|o|out)_proj"
    # Files with words, names of speakers or utterances are not uploaded.
    shareable = (
        *Task.shareable,
        "letter_confusions.csv",
        "errors_by_length.csv",
        "errors_by_accent.csv",
        "errors_by_corpus.csv",
        "errors_by_confidence.csv",
        "word_confidence.csv",
        "word_risk_coverage.png",
        "decoders.csv",
        "tones.png",
    )

    @classmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        args = SpeechToTextDataArguments()
        rows = read_recordings(path, form).rename(columns={"audio": "path"})
        settings = SoundSettings(args.sampling_rate, args.max_seconds)
        found = measure(rows["path"], settings, args.check_workers)
        unusable = [{"path": name, "reason": reason} for name, reason in found.items() if isinstance(reason, str)]
        empty = rows["path"][rows["transcript"].map(lambda text: not written(text, args.transcript_form))]
        return rows.drop(columns="transcript"), [
            *unusable,
            *({"path": name, "reason": "its transcript is empty"} for name in empty),
        ]

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.data_args.batch_seconds is None:
            return
        if self.training_args.auto_find_batch_size:
            raise RecipeError("auto_find_batch_size lowers numbers of recordings: leave it out, or batch_seconds.")
        self.training_args.per_device_train_batch_size = 1  # so that advice on memory does not name it

    def load_data(self) -> LoadedData:
        self.data_args.check_libraries()
        return load_recordings(self)

    def build_processor(self, data: LoadedData) -> ProcessorMixin:
        train = data.splits.get("train")
        return processor_for(self, [] if train is None else list(train["transcript"]))

    def build_model(self, data: LoadedData, processor: ProcessorMixin) -> PreTrainedModel:
        return make_model(self, processor)

    def caches(self, data: LoadedData, processor: ProcessorMixin) -> RecordingCaches | None:
        decoded = decoded_recordings(self)
        return decoded and RecordingCaches(decoded, data)

    def with_transforms(self, data: LoadedData, processor: ProcessorMixin, clock: EpochClock) -> DatasetDict:
        args, skipped, decoded = self.data_args, skipped_file(self), data.own
        plain = RecordingTransform(processor, skipped, args.max_seconds, decoded=decoded)
        augmentation = Augmentation(**args.augmentation) if args.augment else None
        companions = None
        if args.join_recordings and "train" in data.splits:
            companions = Companions(data.splits["train"], args.join_recordings, args.max_seconds)
        augmented = RecordingTransform(
            processor, skipped, args.max_seconds, augmentation, self.training_args.seed, clock, companions, decoded
        )
        splits = DatasetDict(
            {
                split: Recordings.of(rows).with_transform(augmented if split == "train" else plain)
                for split, rows in data.splits.items()
            }
        )
        if args.batch_seconds is not None and "train" in splits:
            seconds = data.splits["train"]["seconds"]
            splits["train"].batches = SecondsBatches(seconds, args.batch_seconds, self.training_args.seed, clock)
        return splits

    def collator(self, processor: ProcessorMixin) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        extractor = processor.feature_extractor
        return RecordingCollator(extractor.model_input_names[0], bool(extractor.return_attention_mask))

    def callbacks(self) -> list[TrainerCallback]:
        return [BlankWatch(self.data_args.blank_steps)]

    def compute_metrics(self, prediction: EvalPrediction, trained: Trained) -> dict[str, float]:
        answers = Answers.of(prediction, trained.processor.tokenizer).readable()
        metrics = answers.metrics()
        logged = {name: metrics[name] for name in self.metric_names}
        return with_extra(logged, self.training_args, answers.heard, answers.said)

    def score(self, evaluation: Evaluation) -> SpeechReport:
        return score_split(self, evaluation)

    def memory_hints(self) -> list[str]:
        hints = []
        if (seconds := self.data_args.batch_seconds) is not None:
            hints.append(f"--batch_seconds {seconds / 2:g} (now {seconds:g})")
        hints += [f"--max_seconds {self.data_args.max_seconds / 2:g} (now {self.data_args.max_seconds:g})"]
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
