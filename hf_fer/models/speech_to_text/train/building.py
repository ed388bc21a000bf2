"""The processor and the model of a speech_to_text recipe."""

import logging
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoTokenizer,
    ParakeetEncoderConfig,
    ParakeetProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
    Wav2Vec2Processor,
)

from hf_fer.data.loading import DataError
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.runtime.checkpoints import start_anew
from hf_fer.task.base import Task
from hf_fer.weights.encoders import check_features, load_encoder, nested_config
from hf_fer.weights.starting_points import NOT_LOADABLE, load_model, nothing_anew, read

from .arguments import SpeechToTextModelArguments
from .model import Extractor, new_model, prepare, preset_config, samples_per_frame
from .preprocessing import SoundSettings, checkpoint_extractor
from .vocabulary import build_tokenizer, outside_vocabulary
from .word_confidence import WordCalibration

logger = logging.getLogger(__name__)

HEADS = ("ctc_head", "lm_head")
NOT_SIZES = {"model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"}
"""Fields of a configuration that do not describe the model."""


def start_config(args: SpeechToTextModelArguments) -> PreTrainedConfig | None:
    """The configuration of the checkpoint that the recipe starts from; `None` without one."""
    path = args.model_name_or_path
    return read(AutoConfig.from_pretrained, path) if path else None


def processor_for(task: Task, transcripts: list[str]) -> ProcessorMixin:
    """
    The checkpoint's processor, or a new model's, whose vocabulary comes from the training split.

    Args:
        task: Task of the recipe.
        transcripts: Transcripts of the training split.

    Raises:
        DataError: there are no transcripts to build a vocabulary from.
        RecipeError: the checkpoint's processor cannot be loaded.
    """
    args = task.model_args
    tokenizer = None
    if args.model_name_or_path:
        extractor = checkpoint_extractor(args.model_name_or_path)
        tokenizer = known_tokenizer(task, transcripts)
    else:
        extractor = SoundSettings.of(task).extractor()
        if args.encoder_backbone:
            check_features("encoder_backbone", args.encoder_backbone, extractor)
    if tokenizer is None:
        if not transcripts:
            raise DataError("There is no training split to build a vocabulary from; give --model_name_or_path.")
        tokenizer = build_tokenizer(transcripts, args.units, args.vocab_size)
    if isinstance(extractor, Extractor):
        return ParakeetProcessor(extractor, tokenizer, decoder_type="ctc")
    return Wav2Vec2Processor(extractor, tokenizer)


def known_tokenizer(task: Task, transcripts: list[str]) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer, or `None` if training needs a new one; the log says so."""
    path, trains = task.model_args.model_name_or_path, task.training_args.do_train
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except NOT_LOADABLE as error:
        if not trains:
            raise RecipeError(f"model_name_or_path: {path} has no tokenizer ({error}).") from error
        return None
    if not trains or ("units" not in task.given and not outside_vocabulary(transcripts, tokenizer)):
        return tokenizer
    logger.warning("%s lacks characters of the training split: its head is initialised again.", path)
    return None


def make_model(task: Task, processor: ProcessorMixin) -> PreTrainedModel:
    """A new model of a preset, or the checkpoint's, with the modules that `freeze` names frozen."""
    args, tokenizer = task.model_args, processor.tokenizer
    if args.model_name_or_path:
        model = started_model(args, processor)
        if task.training_args.do_train:
            WordCalibration().put(model.config)  # after training, the fitted values no longer apply
    else:
        extractor = processor.feature_extractor
        sizes = {"hop_length": extractor.hop_length, "mel_bins": extractor.feature_size}
        try:
            config = preset_config(
                args.model_size,
                len(tokenizer),
                tokenizer.pad_token_id,
                overrides=backbone_overrides(args),
                **sizes,
            )
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise RecipeError(f"config_overrides: {error}") from error
        if args.attn_implementation:
            config._attn_implementation = args.attn_implementation
        model = new_model(config, args.features)
        if args.encoder_backbone:
            load_encoder(model.encoder, "encoder_backbone", args.encoder_backbone)
    modules = dict(model.named_modules())
    for part in args.freeze or []:
        check_choice("freeze part", part, [name for name in modules if name])
    freeze([modules[part] for part in args.freeze or []], model)
    return prepare(model)


def freeze(parts: list[nn.Module], model: PreTrainedModel) -> None:
    """Freeze modules of a model; they also stay in evaluation mode, so that BatchNorm keeps its statistics."""

    def quiet(*inputs: Any) -> None:
        for part in parts:
            part.eval()

    for part in parts:
        part.requires_grad_(False)
    model.register_forward_pre_hook(quiet)


def backbone_config(args: SpeechToTextModelArguments) -> PreTrainedConfig | None:
    """The configuration of the encoder that a new model takes from a checkpoint; `None` without one."""
    path = args.encoder_backbone
    return nested_config("encoder_backbone", path, ParakeetEncoderConfig.model_type) if path else None


def backbone_overrides(args: SpeechToTextModelArguments) -> dict[str, Any]:
    """
    `config_overrides`, with the sizes of the encoder that a new model takes from a checkpoint.

    Raises:
        RecipeError: `config_overrides` sets a size of that encoder.
    """
    source, overrides = backbone_config(args), dict(args.config_overrides)
    if source is None:
        return overrides
    own = overrides.get("encoder_config", {})
    if sizes := [name for name in own if not changes_with_training(name)]:
        raise RecipeError(
            f"config_overrides: encoder_config.{sizes[0]} is set by encoder_backbone; only dropouts can change."
        )
    known = ParakeetEncoderConfig().to_dict().keys() - NOT_SIZES
    sizes = {name: value for name, value in source.to_dict().items() if name in known}
    kept = {name: value for name, value in sizes.items() if not changes_with_training(name)}
    return {**overrides, "encoder_config": {**kept, **own}}


def changes_with_training(name: str) -> bool:
    """Whether a field of an encoder's configuration is about training, not about its weights."""
    return "dropout" in name or name == "layerdrop"


def samples_of_frame(args: SpeechToTextModelArguments, extractor: SequenceFeatureExtractor) -> int:
    """Number of samples per frame of the model that the recipe describes."""
    hop, source = getattr(extractor, "hop_length", 1), backbone_config(args)
    return hop * source.subsampling_factor if source else samples_per_frame(start_config(args), hop)


def override(config: PreTrainedConfig, fields: dict[str, Any], where: str) -> None:
    """Set fields of a configuration and its sub-configurations; raises `RecipeError` for an unknown field."""
    for name, value in fields.items():
        check_choice(f"{where} field", name, config.to_dict())
        part = getattr(config, name)
        if isinstance(part, PreTrainedConfig) and isinstance(value, dict):
            override(part, value, f"{where}.{name}")
        else:
            setattr(config, name, value)


def started_model(args: SpeechToTextModelArguments, processor: ProcessorMixin) -> PreTrainedModel:
    """The checkpoint's model; with another vocabulary its head is initialised again."""
    tokenizer, config = processor.tokenizer, start_config(args)
    known = same_vocabulary(args.model_name_or_path, tokenizer)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    config.ctc_loss_reduction, config.ctc_zero_infinity = "mean", True
    override(config, args.config_overrides, "config_overrides")
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


def same_vocabulary(path: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer is the checkpoint's own."""
    try:
        return AutoTokenizer.from_pretrained(path).get_vocab() == tokenizer.get_vocab()
    except NOT_LOADABLE:
        return False
