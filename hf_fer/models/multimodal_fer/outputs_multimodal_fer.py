"""What the audio-visual emotion models return. Shapes are those of the modeling file."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput


@dataclass
class MultimodalFerModelOutput(ModelOutput):
    """
    Output of [`MultimodalFerModel`]. A modality that the model does not have is `None`.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(B, S * modalities, D_fusion)`):
            Fused tokens, interleaved a1 v1 a2 v2 ...
        token_mask (`torch.BoolTensor` of shape `(B, S * modalities)`):
            True where the token's modality was present.
        audio_tokens, video_tokens (`torch.Tensor` of shape `(B, S, D_fusion)`):
            Projected segment tokens before fusion.
        audio_present, video_present (`torch.BoolTensor` of shape `(B,)`):
            Which examples carry the modality, before modality dropout.
        audio_gate, video_gate (`torch.Tensor` of shape `(B, S)`):
            Mean gate of the modality projection, in (0, 1).
        kept_patches (`torch.LongTensor` of shape `(B, F, K)`):
            Indices of the patches that the ROI compression kept, ascending.
        hidden_states (`tuple[torch.Tensor]`): The fusion's input and each of its layers' output, `(B, S * modalities,
            D_fusion)`, the last one normalised; given with `output_hidden_states`.
        attentions (`tuple[torch.Tensor]`): Weights `(B, heads, S * modalities, S * modalities)` of the fusion's
            attention layers, its convolutions have none; given with `output_attentions`.
        audio_hidden_states, audio_attentions (`tuple[torch.Tensor]`): Those of the audio encoder, `(B, T', D_a)` and
            `(B, heads, T', T')`.
        video_hidden_states, video_attentions (`tuple[torch.Tensor]`): Those of the vision encoder, frame by
            frame: `(B * F, N, D_v)` and `(B * F, heads, N, N)`.
    """

    last_hidden_state: Tensor | None = None
    token_mask: Tensor | None = None
    audio_tokens: Tensor | None = None
    video_tokens: Tensor | None = None
    audio_present: Tensor | None = None
    video_present: Tensor | None = None
    audio_gate: Tensor | None = None
    video_gate: Tensor | None = None
    kept_patches: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    audio_hidden_states: tuple[Tensor, ...] | None = None
    audio_attentions: tuple[Tensor, ...] | None = None
    video_hidden_states: tuple[Tensor, ...] | None = None
    video_attentions: tuple[Tensor, ...] | None = None


@dataclass
class EmotionClassifierOutput(ModelOutput):
    """
    Output of [`MultimodalFerForEmotionClassification`].

    Args:
        loss (`torch.Tensor` of shape `()`): Sum of the weighted losses; given with `labels`.
        logits (`torch.Tensor` of shape `(B, C)`): Scores before softmax.
        audio_logits, video_logits (`torch.Tensor` of shape `(B, C)`): From the auxiliary heads.
        segment_logits (`torch.Tensor` of shape `(B, S, C)`): The classifier on each segment alone.
        audio_gate, video_gate (`torch.Tensor` of shape `(B, S)`): See [`MultimodalFerModelOutput`].
        kept_patches (`torch.LongTensor` of shape `(B, F, K)`): See [`MultimodalFerModelOutput`].
        hidden_states, attentions, audio_hidden_states, audio_attentions, video_hidden_states, video_attentions
            (`tuple[torch.Tensor]`): See [`MultimodalFerModelOutput`].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    audio_logits: Tensor | None = None
    video_logits: Tensor | None = None
    segment_logits: Tensor | None = None
    audio_gate: Tensor | None = None
    video_gate: Tensor | None = None
    kept_patches: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    audio_hidden_states: tuple[Tensor, ...] | None = None
    audio_attentions: tuple[Tensor, ...] | None = None
    video_hidden_states: tuple[Tensor, ...] | None = None
    video_attentions: tuple[Tensor, ...] | None = None


STATES = (
    "hidden_states",
    "attentions",
    "audio_hidden_states",
    "audio_attentions",
    "video_hidden_states",
    "video_attentions",
)
"""What a forward pass returns only where it is asked for."""

RECORDS = ("output_hidden_states", "output_attentions")


def recorded(config: PreTrainedConfig, **given: Any) -> dict[str, Any]:
    """
    What the encoders are to record: the arguments of `forward`, or the configuration's fields, where they say so.

    Where neither does it is left out, for each encoder's own configuration to say.
    """
    asked = {name: given[name] if given[name] is not None else getattr(config, name) or None for name in RECORDS}
    return {name: value for name, value in asked.items() if value is not None}


__all__ = ["STATES", "EmotionClassifierOutput", "MultimodalFerModelOutput", "recorded"]
