"""Builds the stock CTC models that speech_to_text trains, and adapts their outputs and losses for training."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    LasrFeatureExtractor,
    NemotronAsrStreamingFeatureExtractor,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..alignment_speech_to_text import blank_id, frame_lengths

PRESETS = {
    "weak": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "subsampling_conv_channels": 64},
    "medium": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "subsampling_conv_channels": 128},
    "strong": {
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "subsampling_conv_channels": 256,
    },
}
Extractor = ParakeetFeatureExtractor | LasrFeatureExtractor | NemotronAsrStreamingFeatureExtractor
EXTRACTORS = {
    "parakeet": ParakeetFeatureExtractor,
    "lasr": LasrFeatureExtractor,
    "nemotron": NemotronAsrStreamingFeatureExtractor,
}
FEATURES = tuple(EXTRACTORS)
LASR_HERTZ = 7500
"""Highest frequency of LASR's mel filters in Hz, at any sampling rate."""
SCALES = {"lasr": (-5.0, 4.0), "nemotron": (-12.0, 4.0)}
"""Approximate mean and deviation of log-mels that are not normalised, for a new model's first layer to normalise."""
SUBSAMPLING = 4
PADDED = -1e4
EDGE_WEIGHT = 0.1
MEL_BINS = 80
WINDOW_MS = 25.0


def preset_config(
    size: str,
    vocab_size: int,
    blank: int,
    hop_length: int,
    overrides: dict[str, Any] | None = None,
    mel_bins: int = MEL_BINS,
) -> ParakeetCTCConfig:
    """
    The configuration of a model from scratch.

    Args:
        size: One of `PRESETS`.
        vocab_size, blank: Size of the tokenizer's vocabulary, and index of its blank.
        hop_length: Samples from one mel frame to the next.
        overrides: Fields that replace the preset's; those of `encoder_config` are replaced one by one.
        mel_bins: Number of bands of its features.

    Raises:
        ValueError: the configuration does not have a field, or the tokenizer determines it.
    """
    overrides = dict(overrides or {})
    fields = {
        **PRESETS[size],
        "intermediate_size": 4 * PRESETS[size]["hidden_size"],
        "subsampling_factor": SUBSAMPLING,
        "num_mel_bins": mel_bins,
        "layerdrop": 0.0,  # a layer that one process drops would have no gradient there
        **overrides.pop("encoder_config", {}),
    }
    known = {*ParakeetEncoderConfig().to_dict(), "num_key_value_heads"}
    wrong = [f"encoder_config.{name}" for name in fields if name not in known]
    wrong += [name for name in overrides if name not in ("ctc_loss_reduction", "ctc_zero_infinity")]
    if wrong:
        raise ValueError(f"{wrong[0]} cannot be set; fields of encoder_config are {sorted(known)}")
    encoder = ParakeetEncoderConfig(**fields)
    config = ParakeetCTCConfig(
        vocab_size=vocab_size, pad_token_id=blank, encoder_config=encoder.to_dict(), **overrides
    )
    config.inputs_to_logits_ratio = samples_per_frame(config, hop_length)
    return config


def samples_per_frame(config: PreTrainedConfig | None, hop_length: int) -> int:
    """Number of samples per frame of a model; without a configuration, of a model from scratch."""
    encoder = getattr(config, "encoder_config", None)
    if config is None or encoder is not None:
        return hop_length * (SUBSAMPLING if encoder is None else encoder.subsampling_factor)
    return int(config.inputs_to_logits_ratio)


def new_extractor(
    sampling_rate: int, features: str, mel_bins: int = MEL_BINS, window_ms: float = WINDOW_MS
) -> Extractor:
    """
    Log-mel features, one every 10 ms.

    Args:
        sampling_rate: Sampling rate in Hz.
        features: One of `FEATURES`.
        mel_bins: Number of bands.
        window_ms: Length of a Fourier transform's window in ms.

    Raises:
        ValueError: the rate is too low for LASR's mel filters.
    """
    width = int(sampling_rate * window_ms / 1000)
    windows = {
        "hop_length": sampling_rate // 100,
        "win_length": width,
        "n_fft": max(512, 1 << (width - 1).bit_length()),
    }
    if features == "lasr" and sampling_rate < 2 * LASR_HERTZ:
        raise ValueError(
            f"lasr needs a sampling_rate of {2 * LASR_HERTZ} Hz or more, got {sampling_rate}; nemotron takes any"
        )
    return EXTRACTORS[features](feature_size=mel_bins, sampling_rate=sampling_rate, **windows)


def mel_hertz(extractor: Extractor) -> np.ndarray:
    """Mean frequency of each mel bin's filter in Hz, `(mel_bins,)`."""
    filters = np.asarray(extractor.mel_filters, dtype=np.float64)
    filters = filters if len(filters) == extractor.feature_size else filters.T
    hertz = np.linspace(0, extractor.sampling_rate / 2, filters.shape[1])
    return filters @ hertz / filters.sum(axis=1)


def new_model(config: ParakeetCTCConfig, features: str = "parakeet") -> ParakeetForCTC:
    """
    A stock model with torch's own initialisation of linear and convolution layers.

    With Parakeet's, normal with a deviation of 0.02, the signal vanishes in the layers of small encoders.

    Args:
        config: Configuration of the model.
        features: Input features of the model, one of `FEATURES`.
    """
    model = ParakeetForCTC(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    if features in SCALES:
        mean, deviation = SCALES[features]
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        with torch.no_grad():
            first.weight /= deviation
            first.bias -= mean * first.weight.sum(dim=(1, 2, 3))
    return model


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Prepares a CTC model for the Trainer: frames of padding become blank, and the loss is the batch's mean."""
    model.accepts_loss_kwargs = False  # because of `**kwargs` in forward, the Trainer would scale the loss again
    model.register_forward_hook(blank_padding, with_kwargs=True)
    return model


def blank_padding(model: PreTrainedModel, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """
    Make the blank the best token of every frame of padding, and train the first of these frames to be blank.

    A recording's last mel frame counts as padding, and may have its own output frame. The stock pipeline, which does
    not know the padding, decodes that frame like the others; without a loss on it, it could be any letter.
    """
    mask = kwargs.get("attention_mask")
    if mask is None:
        return output
    logits, blank = output.logits, blank_id(model)
    lengths = frame_lengths(model, mask)
    if model.training:
        if output.loss is not None:
            output.loss = output.loss + EDGE_WEIGHT * edge_loss(logits, lengths, blank)
        return output
    place = torch.arange(logits.shape[1], device=logits.device)[None]
    padded = torch.full_like(logits[:1, :1], PADDED)
    padded[..., blank] = 0.0
    output.logits = torch.where((place >= lengths[:, None])[..., None], padded, logits)
    return output


def edge_loss(logits: torch.Tensor, lengths: torch.Tensor, blank: int) -> torch.Tensor:
    """Mean over the batch of the cross entropy of the first frame of padding with the blank; 0 without padding."""
    there = lengths < logits.shape[1]
    edge = logits[torch.arange(len(logits), device=logits.device), lengths.clamp(max=logits.shape[1] - 1)]
    losses = functional.cross_entropy(edge.float(), torch.full_like(lengths, blank), reduction="none")
    return (losses * there).mean()


def best_frames(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """The best token of each frame, `(batch, frames)`, from logits of `blank_padding`; -100 for padding."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return logits.argmax(dim=-1).masked_fill(logits.amin(dim=-1) <= PADDED, -100)
