"""Configuration of the audio-visual emotion recognition model."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import Lfm2Config, ParakeetEncoderConfig, PreTrainedConfig, SiglipVisionConfig

MODALITIES = ("audio", "video")

RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

_TINY = {
    "audio_config": {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "subsampling_conv_channels": 32,
    },
    "vision_config": {
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "image_size": 64,
        "patch_size": 8,
    },
    "lfm2_config": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "num_segments": 4,
    "roi_top_k": 16,
    "num_global_tokens": 2,
    "temporal_num_layers": 3,
    "temporal_num_heads": 4,
    "classifier_hidden_size": 96,
}

_LIGHT = {
    "audio_config": {
        "hidden_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 12,
        "intermediate_size": 2560,
    },
    "vision_config": {},
    "lfm2_config": {
        "hidden_size": 512,
        "intermediate_size": 1344,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "layer_types": ["conv", "conv", "full_attention"] * 2,
        "block_auto_adjust_ff_dim": False,
    },
}

# Audio: FastConformer-L (17 layers, width 512). Fusion: the shape of LiquidAI/LFM2-350M.
_FULL = {
    "audio_config": {
        "hidden_size": 512,
        "num_hidden_layers": 17,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    "vision_config": {},
    "lfm2_config": {
        "hidden_size": 1024,
        "intermediate_size": 6656,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    },
    "temporal_num_layers": 6,
}

PRESETS: dict[str, dict[str, Any]] = {"tiny": _TINY, "light": _LIGHT, "full": _FULL}


@strict
class FrameEncoderConfig(SiglipVisionConfig):
    r"""
    Configuration of the vision encoder: that of SigLIP2's, and whether a convolutional stem precedes it.

    Args:
        stem_channels (`list[int]`, *optional*):
            Channels of each stage of a convolutional stem in place of the patch embedding (arXiv 2106.14881). Every
            stage halves the picture, so `patch_size` becomes `2 ** len(stem_channels)`. Without a pretrained encoder
            it learns from far fewer pictures than patches alone; no SigLIP2 checkpoint can be loaded into it.
        stem_blocks (`int`, *optional*, defaults to 1):
            Residual blocks of each stage of the stem.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field has the wrong type or an impossible value.
    """

    stem_channels: list[int] | None = None
    stem_blocks: int = 1

    def __post_init__(self, **kwargs):
        if self.stem_channels:
            self.patch_size = 2 ** len(self.stem_channels)
        super().__post_init__(**kwargs)

    def validate_stem(self):
        """Check that there are channels where there is a stem, and no negative number of blocks."""
        if self.stem_channels is not None and min(self.stem_channels, default=0) < 1:
            raise ValueError(f"stem_channels needs a positive number per stage, got {self.stem_channels}.")
        if self.stem_blocks < 0:
            raise ValueError(f"stem_blocks must not be negative, got {self.stem_blocks}.")


@strict
class MultimodalFerConfig(PreTrainedConfig):
    r"""
    Configuration of [`MultimodalFerModel`] and [`MultimodalFerForEmotionClassification`].

    Args:
        audio_config (`ParakeetEncoderConfig` or `dict`, *optional*):
            FastConformer encoder (arXiv 2305.05084). Layerdrop is 0 unless it is given, because a dropped layer
            is an unused parameter under DDP.
        vision_config (`FrameEncoderConfig` or `dict`, *optional*):
            SigLIP2 fixed-resolution encoder (arXiv 2502.14786), with a convolutional stem if `stem_channels` is set;
            the pooling head is never built.
        lfm2_config (`Lfm2Config` or `dict`, *optional*):
            LFM2 over the interleaved segment tokens. It has no token embeddings.
        modalities (`list[str]`, *optional*, defaults to `["audio", "video"]`):
            Branches that are built. `["audio"]` has no vision parameters at all.
        visual_feature_size (`int`, *optional*):
            Width of visual features that were computed elsewhere, such as action units. A linear layer to
            `vision_config.hidden_size` then replaces the vision encoder.
        backbones (`dict[str, str]`, *optional*):
            Checkpoints that `audio`, `vision` and `fusion` started from. They are only a record: loading a saved model
            does not read them.
        num_segments (`int`, *optional*, defaults to 8):
            Number of time segments `S` in which both modalities are summarised.
        num_frames (`int`, *optional*, defaults to 16):
            Largest number of video frames; sets the size of the frame position embedding.
        roi_top_k (`int`, *optional*, defaults to 64):
            Patches kept per frame by the ROI token compression.
        num_global_tokens (`int`, *optional*, defaults to 4):
            Learned tokens per frame that attend to all patches.
        roi_mask_weight (`float`, *optional*, defaults to 1.0):
            Value that is added to a patch's score where `roi_mask` is 1.
        temporal_num_layers (`int`, *optional*, defaults to 4):
            Blocks of the temporal encoder.
        temporal_num_heads (`int`, *optional*, defaults to 8):
            Attention heads in the vision branch's own attention layers.
        temporal_attention_every (`int`, *optional*, defaults to 3):
            Every n-th temporal block is full attention, the others are gated short convolutions.
        temporal_kernel_size (`int`, *optional*, defaults to 3):
            Kernel of the gated short convolution, in frames.
        modality_dropout (`float`, *optional*, defaults to 0.2):
            Probability per training example that one of its two modalities is hidden from the fusion.
        dropout (`float`, *optional*, defaults to 0.1):
            Dropout in the temporal encoder and on the fusion tokens.
        classifier_pooling (`"mean"`, `"max"`, `"last"` or `"attention"`, *optional*, defaults to `"attention"`):
            How the fused tokens become one vector.
        classifier_hidden_size (`int` or `list[int]`, *optional*, defaults to 256):
            Width of the classifier's hidden layer, or widths of several; an empty list builds none.
        classifier_dropout (`float`, *optional*, defaults to 0.1):
            Dropout in the classifier.
        label_smoothing (`float`, *optional*, defaults to 0.1):
            Label smoothing of every cross entropy.
        auxiliary_loss_weight (`float`, *optional*, defaults to 0.3):
            Weight of each modality's own cross entropy. 0 builds no auxiliary heads.
        contrastive_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of the audio-visual InfoNCE (arXiv 1807.03748). 0 builds no contrastive heads.
        contrastive_temperature (`float`, *optional*, defaults to 0.07):
            Temperature of the InfoNCE.
        class_weights (`list[float]`, *optional*):
            One weight per class in the cross entropies.
        temperature (`float`, *optional*, defaults to 1.0):
            Fitted on validation after training. The model's logits are not divided by it; the pipeline's are, and
            `softmax(logits / temperature)` are calibrated probabilities (arXiv 1706.04599).
        abstention_threshold (`float`, *optional*, defaults to 0.0):
            Calibrated probability of the best class below which the pipeline abstains if `abstain` is set.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new queries and embeddings; linear weights scale with their fan-in.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field has the wrong type or an impossible value.
    """

    model_type = "multimodal_fer"
    sub_configs = {
        "audio_config": ParakeetEncoderConfig,
        "vision_config": FrameEncoderConfig,
        "lfm2_config": Lfm2Config,
    }
    # All outputs except the logits, which the Trainer would otherwise gather in evaluation.
    keys_to_ignore_at_inference = [
        "audio_logits",
        "video_logits",
        "segment_logits",
        "audio_gate",
        "video_gate",
        "kept_patches",
        "hidden_states",
        "attentions",
        "audio_hidden_states",
        "audio_attentions",
        "video_hidden_states",
        "video_attentions",
    ]

    audio_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    lfm2_config: dict | PreTrainedConfig | None = None
    modalities: list[str] | tuple[str, ...] = MODALITIES
    visual_feature_size: int | None = None
    backbones: dict | None = None
    num_segments: int = 8
    num_frames: int = 16
    roi_top_k: int = 64
    num_global_tokens: int = 4
    roi_mask_weight: float | int = 1.0
    temporal_num_layers: int = 4
    temporal_num_heads: int = 8
    temporal_attention_every: int = 3
    temporal_kernel_size: int = 3
    modality_dropout: float | int = 0.2
    dropout: float | int = 0.1
    classifier_pooling: Literal["mean", "max", "last", "attention"] = "attention"
    classifier_hidden_size: int | list[int] = 256
    classifier_dropout: float | int = 0.1
    label_smoothing: float | int = 0.1
    auxiliary_loss_weight: float | int = 0.3
    contrastive_loss_weight: float | int = 0.0
    contrastive_temperature: float | int = 0.07
    class_weights: list[float] | None = None
    temperature: float | int = 1.0
    abstention_threshold: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # LFM2 has a vocabulary of one, because its token embeddings are dropped and the default allocates 65,536 rows.
        defaults = {
            "audio_config": {"layerdrop": 0.0},
            "vision_config": {"vision_use_head": False},
            "lfm2_config": {"vocab_size": 1, "use_cache": False, "bos_token_id": None, "eos_token_id": None},
        }
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if value is None:
                value = PRESETS["light"][name]
            if isinstance(value, dict):
                setattr(self, name, config_class(**{**defaults[name], **value}))
        self.vision_config.vision_use_head = False
        self.lfm2_config.use_cache = False
        self.modalities = list(self.modalities)
        if self.id2label is None and kwargs.get("num_labels", len(RAVDESS_EMOTIONS)) == len(RAVDESS_EMOTIONS):
            self.id2label = dict(enumerate(RAVDESS_EMOTIONS))
            self.label2id = {name: index for index, name in self.id2label.items()}
        super().__post_init__(**kwargs)

    @property
    def classifier_widths(self) -> list[int]:
        """Widths of the classifier's hidden layers."""
        widths = self.classifier_hidden_size
        return [widths] if isinstance(widths, int) else list(widths)

    def validate_modalities(self):
        """Check that modalities are audio, video or both, each once."""
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise ValueError(f"modalities must be a non-empty subset of {list(MODALITIES)}, got {self.modalities}.")
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities names one twice: {self.modalities}.")

    def validate_sizes(self):
        """Check that counts are at least 1, probabilities are in [0, 1), and the number of heads divides the width."""
        if self.visual_feature_size is not None and self.visual_feature_size < 1:
            raise ValueError(f"visual_feature_size must be at least 1, got {self.visual_feature_size}.")
        for name in ("num_segments", "num_frames", "roi_top_k", "temporal_attention_every", "temporal_kernel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if min(self.classifier_widths, default=1) < 1:
            raise ValueError(f"classifier_hidden_size must be at least 1, got {self.classifier_hidden_size}.")
        for name in ("modality_dropout", "dropout", "classifier_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        for name in ("auxiliary_loss_weight", "contrastive_loss_weight", "num_global_tokens", "temporal_num_layers"):
            if not getattr(self, name) >= 0:  # nor NaN
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("contrastive_temperature", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if not 0 <= self.abstention_threshold <= 1:
            raise ValueError(f"abstention_threshold must be in [0, 1], got {self.abstention_threshold}.")
        sides = self.vision_config.patch_size, self.vision_config.image_size
        if "video" in self.modalities and self.visual_feature_size is None and not 1 <= sides[0] <= sides[1]:
            raise ValueError(f"patch_size must be from 1 to image_size, got {sides[0]} and {sides[1]}.")
        if "video" in self.modalities and self.vision_config.hidden_size % self.temporal_num_heads:
            raise ValueError(
                f"temporal_num_heads ({self.temporal_num_heads}) must divide vision_config.hidden_size "
                f"({self.vision_config.hidden_size})."
            )

    def validate_class_weights(self):
        """Check that there is one positive weight per class."""
        if self.class_weights is None:
            return
        if len(self.class_weights) != self.num_labels or not all(weight > 0 for weight in self.class_weights):
            raise ValueError(
                f"class_weights needs one positive number for each of the {self.num_labels} classes, "
                f"got {self.class_weights}."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "MultimodalFerConfig":
        """
        Build a configuration from its saved form.

        A saved model carries its pipeline for machines without this package. If the package is installed, that entry
        is dropped, so that `pipeline` takes the registered class and needs no `trust_remote_code`.
        """
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_preset(cls, size: str, **overrides: Any) -> "MultimodalFerConfig":
        """
        Build a configuration of a named size.

        Args:
            size (`str`): `"tiny"`, `"light"` or `"full"`.
            overrides: Fields that replace the preset's; a `dict` for a sub-config is merged into the preset's.

        Raises:
            ValueError: the size is unknown.
        """
        if size not in PRESETS:
            raise ValueError(f"Unknown size {size!r}; choose one of {sorted(PRESETS)}.")
        fields = dict(PRESETS[size])
        for name, value in overrides.items():
            merge = name in cls.sub_configs and isinstance(value, dict)
            fields[name] = {**fields.get(name, {}), **value} if merge else value
        return cls(**fields)


__all__ = ["MODALITIES", "PRESETS", "RAVDESS_EMOTIONS", "FrameEncoderConfig", "MultimodalFerConfig"]
