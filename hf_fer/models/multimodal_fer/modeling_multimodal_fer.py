"""Audio-visual emotion recognition: FastConformer and SigLIP2 encoders, fused by LFM2 over time segments.

Shapes use B (batch), F (frames), N (patches of a frame), S (segments), D (width), C (classes).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Lfm2Model, ParakeetEncoder, PreTrainedModel, SiglipVisionModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .configuration_multimodal_fer import MultimodalFerConfig


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
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    audio_logits: Tensor | None = None
    video_logits: Tensor | None = None
    segment_logits: Tensor | None = None
    audio_gate: Tensor | None = None
    video_gate: Tensor | None = None
    kept_patches: Tensor | None = None


LEARNED_TOKENS = (
    "query",
    "segment_embedding",
    "global_tokens",
    "frame_embedding",
    "segment_queries",
    "type_embedding",
    "missing_embedding",
)


def reset_to_torch_default(module: nn.Module) -> None:
    """
    Draw convolutions and linear layers anew with torch's own initialisation.

    Parakeet's normal(0, 0.02) suits loading a checkpoint; trained from scratch it all but closes the subsampling
    convolutions, whose fan-in is 9, and learning stalls for many epochs.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            part.reset_parameters()


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis where `mask` is true; a row with no true entry comes out uniform, never NaN."""
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


class SegmentAttentionPooling(nn.Module):
    """
    Summarise a sequence of any length in S tokens.

    The valid frames are cut into S segments (the bounds of adaptive average pooling, so a sequence shorter than
    S still fills every segment), each segment is averaged with attention weights from its own learned query, and
    a learned segment embedding says where in the clip it lies.
    """

    def __init__(self, hidden_size: int, num_segments: int):
        super().__init__()
        self.num_segments = num_segments
        self.key = nn.Linear(hidden_size, hidden_size)
        self.query = nn.Parameter(torch.empty(num_segments, hidden_size))
        self.segment_embedding = nn.Parameter(torch.empty(num_segments, hidden_size))
        self.norm = nn.LayerNorm(hidden_size)

    def segment_mask(self, lengths: Tensor, max_length: int) -> Tensor:
        """True where frame t belongs to segment s: `(B,)` lengths in frames -> `(B, S, max_length)`."""
        segment = torch.arange(self.num_segments, device=lengths.device)
        start = (segment * lengths[:, None]) // self.num_segments
        stop = ((segment + 1) * lengths[:, None] + self.num_segments - 1) // self.num_segments
        frame = torch.arange(max_length, device=lengths.device)
        return (frame >= start[..., None]) & (frame < stop[..., None])

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """`(B, T, D)` and valid lengths `(B,)` -> `(B, S, D)`."""
        mask = self.segment_mask(lengths, hidden_states.shape[1])
        scores = torch.einsum("sd,btd->bst", self.query, self.key(hidden_states)) / math.sqrt(hidden_states.shape[-1])
        pooled = masked_softmax(scores, mask) @ hidden_states
        return self.norm(pooled + self.segment_embedding)


class MultiHeadAttention(nn.Module):
    """Bidirectional multi-head attention over SDPA, queries and context of the same width."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(B, Q, D)`, `(B, T, D)` and a context mask `(B, T)`, true = attend -> `(B, Q, D)`."""

        def split_heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        query, key, value = (
            split_heads(projection(states))
            for projection, states in ((self.q_proj, queries), (self.k_proj, context), (self.v_proj, context))
        )
        bias = None
        if mask is not None:
            # An additive finite bias: a clip without any frame must not turn into NaN.
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
            bias = bias[:, None, None, :].expand(-1, 1, query.shape[2], -1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class RoiTokenCompression(nn.Module):
    """
    Keep the K patches of each frame that matter and add G tokens that see all of them.

    A small MLP scores the patches. The kept ones are multiplied by the sigmoid of their score, which is the only
    way the scorer gets a gradient: the choice itself has none. A `roi_mask` (a face box, say) is added to the
    score; it is never multiplied, because that would demote patches of negative score.
    """

    def __init__(self, config: MultimodalFerConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.top_k = config.roi_top_k
        self.roi_mask_weight = config.roi_mask_weight
        self.norm = nn.LayerNorm(width)
        self.scorer = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, 1))
        self.num_global_tokens = config.num_global_tokens
        if config.num_global_tokens:
            self.global_tokens = nn.Parameter(torch.empty(config.num_global_tokens, width))
            self.global_attention = MultiHeadAttention(width, config.temporal_num_heads)

    def forward(self, patches: Tensor, roi_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`(M, N, D)` patches of M frames, `roi_mask` `(M, N)` -> tokens `(M, K + G, D)`, kept indices `(M, K)`."""
        patches = self.norm(patches)
        scores = self.scorer(patches).squeeze(-1)
        if roi_mask is not None:
            scores = scores + self.roi_mask_weight * roi_mask.to(scores.dtype)
        kept = scores.topk(min(self.top_k, patches.shape[1]), dim=-1).indices.sort(dim=-1).values
        tokens = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
        tokens = tokens * scores.gather(1, kept).sigmoid()[..., None]
        if self.num_global_tokens:
            queries = self.global_tokens.expand(len(patches), -1, -1)
            tokens = torch.cat([tokens, self.global_attention(queries, patches)], dim=1)
        return tokens, kept


class GatedShortConvolution(nn.Module):
    """
    The operator of LFM2 (arXiv 2511.23404), `y = W_out(c * conv(b * h))` with `(b, c, h) = split(W_in x)`.

    Unlike LFM2's it is centred, not causal: the whole clip is there when it runs.
    """

    def __init__(self, hidden_size: int, kernel_size: int):
        super().__init__()
        self.kernel_size = kernel_size
        self.in_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """`(B, F, D)`, mask `(B, F)` -> `(B, F, D)`; a masked frame never reaches its neighbours."""
        b, c, h = self.in_proj(hidden_states).chunk(3, dim=-1)
        gated = (b * h).masked_fill(~mask[..., None], 0.0).transpose(1, 2)
        left = (self.kernel_size - 1) // 2
        mixed = self.conv(F.pad(gated, (left, self.kernel_size - 1 - left))).transpose(1, 2)
        return self.out_proj(c * mixed)


class TemporalBlock(GradientCheckpointingLayer):
    """Pre-norm block over frames: a gated short convolution or full attention, then a two-layer MLP."""

    def __init__(self, config: MultimodalFerConfig, layer_idx: int):
        super().__init__()
        width = config.vision_config.hidden_size
        self.is_attention = (layer_idx + 1) % config.temporal_attention_every == 0
        self.operator_norm = nn.LayerNorm(width)
        if self.is_attention:
            self.operator = MultiHeadAttention(width, config.temporal_num_heads)
        else:
            self.operator = GatedShortConvolution(width, config.temporal_kernel_size)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        normed = self.operator_norm(hidden_states)
        mixed = self.operator(normed, normed, mask) if self.is_attention else self.operator(normed, mask)
        hidden_states = hidden_states + self.dropout(mixed)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class TemporalEncoder(nn.Module):
    """Frame tokens -> one vector per frame -> GSCB and attention blocks -> S segment tokens."""

    def __init__(self, config: MultimodalFerConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.token_score = nn.Linear(width, 1)
        self.frame_embedding = nn.Parameter(torch.empty(config.num_frames, width))
        self.layers = nn.ModuleList(TemporalBlock(config, index) for index in range(config.temporal_num_layers))
        self.norm = nn.LayerNorm(width)
        self.segment_queries = nn.Parameter(torch.empty(config.num_segments, width))
        self.segment_attention = MultiHeadAttention(width, config.temporal_num_heads)
        self.out_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`(B, F, K + G, D)`, frame mask `(B, F)` -> `(B, S, D)`."""
        weights = self.token_score(tokens).squeeze(-1).softmax(dim=-1)
        hidden_states = torch.einsum("bfk,bfkd->bfd", weights, tokens) + self.frame_embedding[: tokens.shape[1]]
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        queries = self.segment_queries.expand(len(tokens), -1, -1)
        return self.out_norm(queries + self.segment_attention(queries, self.norm(hidden_states), mask))


class GatedModalityProjection(nn.Module):
    """`LN(W_o(sigmoid(GELU(W_g x)) * GELU(W_v x)))`, from a modality's width into the fusion width."""

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(in_size, out_size)
        self.value_proj = nn.Linear(in_size, out_size)
        self.out_proj = nn.Linear(out_size, out_size)
        self.norm = nn.LayerNorm(out_size)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, S, D_in)` -> projected `(B, S, D_out)` and the mean gate `(B, S)`."""
        gate = F.gelu(self.gate_proj(hidden_states)).sigmoid()
        projected = self.norm(self.out_proj(gate * F.gelu(self.value_proj(hidden_states))))
        return projected, gate.mean(dim=-1)


class TokenPooling(nn.Module):
    """Fused tokens to one vector: mean, max, last or learned attention over the tokens that are present."""

    def __init__(self, hidden_size: int, kind: str):
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.score = nn.Linear(hidden_size, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)`, mask `(B, T)` -> `(B, D)`. `last` takes the final position: causal fusion has seen all."""
        if self.kind == "last":
            return tokens[:, -1]
        if self.kind == "max":
            masked = tokens.masked_fill(~mask[..., None], torch.finfo(tokens.dtype).min)
            return torch.where(mask.any(dim=1)[:, None], masked.amax(dim=1), tokens.amax(dim=1))
        scores = self.score(tokens).squeeze(-1) if self.kind == "attention" else torch.zeros_like(tokens[..., 0])
        return torch.einsum("bt,btd->bd", masked_softmax(scores, mask), tokens)


class MultimodalFerPreTrainedModel(PreTrainedModel):
    """Weight initialisation, freezing of parts, and what the transformers machinery needs to know."""

    config: MultimodalFerConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = ("audio", "video")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["ParakeetEncoderBlock", "SiglipEncoderLayer", "Lfm2DecoderLayer", "TemporalBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            if name in LEARNED_TOKENS:
                init.normal_(parameter, std=self.config.initializer_range)

    def freeze(self, parts: Iterable[str]) -> None:
        """
        Stop training the named encoders. They also stay in evaluation mode, so that BatchNorm keeps its statistics.

        Args:
            parts: Any of `"audio"`, `"vision"` and `"fusion"`.

        Raises:
            ValueError: a part is unknown, or the model was built without it.
        """
        base = getattr(self, self.base_model_prefix, self)
        for part in parts:
            encoder = base.parts().get(part)
            if encoder is None:
                raise ValueError(f"Cannot freeze {part!r}; this model has {sorted(base.parts())}.")
            encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        base = getattr(self, self.base_model_prefix, self)
        for encoder in base.parts().values():
            if not any(parameter.requires_grad for parameter in encoder.parameters()):
                nn.Module.train(encoder, False)
        return self


class MultimodalFerModel(MultimodalFerPreTrainedModel):
    """
    Encoders, segment tokens and LFM2 fusion, without a head.

    An example lacks audio when its row of `attention_mask` is all zero, and video when its row of `frame_mask`
    is all zero; a learned embedding then stands in for the modality's tokens.
    """

    def __init__(self, config: MultimodalFerConfig):
        super().__init__(config)
        fusion_size = config.lfm2_config.hidden_size
        if "audio" in config.modalities:
            self.audio_encoder = ParakeetEncoder._from_config(config.audio_config)
            reset_to_torch_default(self.audio_encoder)
            self.audio_pooling = SegmentAttentionPooling(config.audio_config.hidden_size, config.num_segments)
            self.audio_projection = GatedModalityProjection(config.audio_config.hidden_size, fusion_size)
        if "video" in config.modalities:
            self.vision_encoder = SiglipVisionModel._from_config(config.vision_config)
            self.roi_compression = RoiTokenCompression(config)
            self.temporal_encoder = TemporalEncoder(config)
            self.video_projection = GatedModalityProjection(config.vision_config.hidden_size, fusion_size)
        self.type_embedding = nn.Parameter(torch.empty(len(config.modalities), fusion_size))
        self.missing_embedding = nn.Parameter(torch.empty(len(config.modalities), fusion_size))
        self.fusion = Lfm2Model._from_config(config.lfm2_config)
        self.fusion.embed_tokens = None
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> None:
        """There are none: LFM2 is fed `inputs_embeds`."""
        return None

    def parts(self) -> dict[str, nn.Module]:
        """The encoders that can be frozen or loaded by name."""
        named = {"audio": "audio_encoder", "vision": "vision_encoder", "fusion": "fusion"}
        return {part: getattr(self, name) for part, name in named.items() if hasattr(self, name)}

    def encode_audio(self, input_features: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mels `(B, T, mel_bins)` and mask `(B, T)` -> tokens `(B, S, D)`, gate `(B, S)`, present `(B,)`."""
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.bool, device=input_features.device)
        encoded = self.audio_encoder(input_features=input_features, attention_mask=attention_mask.bool())
        lengths = encoded.attention_mask.sum(dim=-1)
        tokens, gate = self.audio_projection(self.audio_pooling(encoded.last_hidden_state, lengths))
        return tokens, gate, attention_mask.any(dim=-1)

    def encode_video(
        self,
        pixel_values: Tensor | None,
        frame_mask: Tensor | None,
        visual_features: Tensor | None,
        roi_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames or their patch features -> tokens `(B, S, D)`, gate `(B, S)`, kept `(B, F, K)`, present `(B,)`."""
        if visual_features is None:
            batch, frames = pixel_values.shape[:2]
            visual_features = self.vision_encoder(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state
        else:
            batch, frames = visual_features.shape[:2]
            visual_features = visual_features.flatten(0, 1)
        if frames > self.config.num_frames:
            raise ValueError(f"Got {frames} frames per clip; this model takes at most {self.config.num_frames}.")
        if frame_mask is None:
            frame_mask = torch.ones((batch, frames), dtype=torch.bool, device=visual_features.device)
        tokens, kept = self.roi_compression(visual_features, None if roi_mask is None else roi_mask.flatten(0, 1))
        tokens = self.temporal_encoder(tokens.unflatten(0, (batch, frames)), frame_mask.bool())
        tokens, gate = self.video_projection(tokens)
        return tokens, gate, kept.unflatten(0, (batch, frames)), frame_mask.any(dim=-1)

    def visible(self, present: dict[str, Tensor]) -> dict[str, Tensor]:
        """Apply modality dropout: in training, hide one modality of an example that has both."""
        if not (self.training and self.config.modality_dropout and len(present) == 2):
            return present
        both = present["audio"] & present["video"]
        hide = both & (torch.rand(both.shape, device=both.device) < self.config.modality_dropout)
        hide_audio = torch.rand(both.shape, device=both.device) < 0.5
        return {
            "audio": present["audio"] & ~(hide & hide_audio),
            "video": present["video"] & ~(hide & ~hide_audio),
        }

    def fuse(self, tokens: dict[str, Tensor], visible: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Per-modality tokens `(B, S, D)` -> fused, interleaved `(B, S * modalities, D)` and their mask."""
        sequence, masks = [], []
        for index, modality in enumerate(self.config.modalities):
            missing = self.missing_embedding[index].expand_as(next(iter(tokens.values())))
            given = tokens.get(modality, missing)
            shown = visible.get(modality, torch.zeros_like(next(iter(visible.values()))))
            sequence.append(torch.where(shown[:, None, None], given, missing) + self.type_embedding[index])
            masks.append(shown[:, None].expand(-1, self.config.num_segments))
        hidden_states = self.dropout(torch.stack(sequence, dim=2).flatten(1, 2))
        fused = self.fusion(inputs_embeds=hidden_states, use_cache=False).last_hidden_state
        return fused, torch.stack(masks, dim=2).flatten(1, 2)

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        visual_features: Tensor | None = None,
        roi_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MultimodalFerModelOutput:
        """
        Args:
            input_features (`torch.Tensor` of shape `(B, mel_frames, mel_bins)`): Log-mel features.
            attention_mask (`torch.Tensor` of shape `(B, mel_frames)`): 1 on valid mel frames.
            pixel_values (`torch.Tensor` of shape `(B, F, 3, height, width)`): Normalised frames.
            frame_mask (`torch.Tensor` of shape `(B, F)`): 1 on valid video frames.
            visual_features (`torch.Tensor` of shape `(B, F, N, D_v)`): Patch features computed elsewhere; they
                take the place of `pixel_values`.
            roi_mask (`torch.Tensor` of shape `(B, F, N)`): Region of interest, added to the patch scores.

        Raises:
            ValueError: neither modality is given, one is given that the model was built without, or there are
                more frames than `config.num_frames`.
        """
        has_audio = input_features is not None
        has_video = pixel_values is not None or visual_features is not None
        for given, modality in ((has_audio, "audio"), (has_video, "video")):
            if given and modality not in self.config.modalities:
                raise ValueError(f"Got {modality}, but this model was built for {self.config.modalities}.")
        if not (has_audio or has_video):
            raise ValueError(f"Give at least one of {self.config.modalities}: input_features or pixel_values.")
        tokens, present = {}, {}
        audio_gate = video_gate = kept = None
        if has_audio:
            tokens["audio"], audio_gate, present["audio"] = self.encode_audio(input_features, attention_mask)
        if has_video:
            tokens["video"], video_gate, kept, present["video"] = self.encode_video(
                pixel_values, frame_mask, visual_features, roi_mask
            )
        fused, token_mask = self.fuse(tokens, self.visible(present))
        output = MultimodalFerModelOutput(
            last_hidden_state=fused,
            token_mask=token_mask,
            audio_tokens=tokens.get("audio"),
            video_tokens=tokens.get("video"),
            audio_present=present.get("audio"),
            video_present=present.get("video"),
            audio_gate=audio_gate,
            video_gate=video_gate,
            kept_patches=kept,
        )
        return output if return_dict is not False else output.to_tuple()


class MultimodalFerForEmotionClassification(MultimodalFerPreTrainedModel):
    """[`MultimodalFerModel`] with a pooled MLP classifier, auxiliary heads and an audio-visual InfoNCE."""

    def __init__(self, config: MultimodalFerConfig):
        super().__init__(config)
        width = config.lfm2_config.hidden_size
        self.model = MultimodalFerModel(config)
        self.pooling = TokenPooling(width, config.classifier_pooling)
        self.classifier = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.classifier_hidden_size),
            nn.GELU(),
            nn.Dropout(config.classifier_dropout),
            nn.Linear(config.classifier_hidden_size, config.num_labels),
        )
        if config.auxiliary_loss_weight:
            self.auxiliary = nn.ModuleDict({name: nn.Linear(width, config.num_labels) for name in config.modalities})
        if config.contrastive_loss_weight and len(config.modalities) == 2:
            self.contrastive = nn.ModuleDict({name: nn.Linear(width, width) for name in config.modalities})
        self.post_init()

    def classification_loss(self, logits: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
        """
        Smoothed cross entropy, `(B, C)` and `(B,)` -> `()`. Labels of -100 do not count.

        The sum over the examples that are `present` is divided by the number of labels, not by that of the present
        ones nor by the sum of class weights, so that gradient accumulation over equal micro-batches gives the
        gradient of the one large batch.
        """
        weight = None
        if self.config.class_weights is not None:
            weight = torch.tensor(self.config.class_weights, device=logits.device, dtype=torch.float32)
        total = F.cross_entropy(
            logits.float(),
            labels if present is None else labels.masked_fill(~present, -100),
            weight=weight,
            label_smoothing=self.config.label_smoothing,
            reduction="sum",
        )
        return total / (labels != -100).sum().clamp(min=1)

    def contrastive_loss(self, audio: Tensor, video: Tensor) -> Tensor:
        """Symmetric InfoNCE (arXiv 1807.03748) of clip vectors `(B, D)`: a clip's own pair against the batch's."""
        audio = F.normalize(self.contrastive["audio"](audio).float(), dim=-1)
        video = F.normalize(self.contrastive["video"](video).float(), dim=-1)
        similarity = audio @ video.T / self.config.contrastive_temperature
        target = torch.arange(len(audio), device=audio.device)
        return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2

    def auxiliary_logits(self, output: MultimodalFerModelOutput) -> dict[str, Tensor]:
        """Each present modality's own logits `(B, C)`, from its tokens before fusion."""
        if not self.config.auxiliary_loss_weight:
            return {}
        tokens = {"audio": output.audio_tokens, "video": output.video_tokens}
        return {name: self.auxiliary[name](given.mean(dim=1)) for name, given in tokens.items() if given is not None}

    def total_loss(
        self, logits: Tensor, auxiliary: dict[str, Tensor], output: MultimodalFerModelOutput, labels: Tensor
    ) -> Tensor:
        """Classification, plus weighted auxiliary and contrastive losses over the examples that have the modality."""
        loss = self.classification_loss(logits, labels)
        present = {"audio": output.audio_present, "video": output.video_present}
        for name, modality_logits in auxiliary.items():
            own = self.classification_loss(modality_logits, labels, present[name])
            loss = loss + self.config.auxiliary_loss_weight * own
        if hasattr(self, "contrastive") and output.audio_tokens is not None and output.video_tokens is not None:
            both = present["audio"] & present["video"]
            if both.any():
                audio, video = output.audio_tokens.mean(dim=1)[both], output.video_tokens.mean(dim=1)[both]
                loss = loss + self.config.contrastive_loss_weight * self.contrastive_loss(audio, video)
        return loss

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        visual_features: Tensor | None = None,
        roi_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> EmotionClassifierOutput:
        """
        Args:
            labels (`torch.LongTensor` of shape `(B,)`): Class indices; -100 is ignored.

        The other arguments and the errors are those of [`MultimodalFerModel`].
        """
        output = self.model(input_features, attention_mask, pixel_values, frame_mask, visual_features, roi_mask)
        logits = self.classifier(self.pooling(output.last_hidden_state, output.token_mask))
        segments = output.last_hidden_state.unflatten(1, (self.config.num_segments, -1)).mean(dim=2)
        auxiliary = self.auxiliary_logits(output)
        result = EmotionClassifierOutput(
            loss=None if labels is None else self.total_loss(logits, auxiliary, output, labels),
            logits=logits,
            audio_logits=auxiliary.get("audio"),
            video_logits=auxiliary.get("video"),
            segment_logits=self.classifier(segments),
            audio_gate=output.audio_gate,
            video_gate=output.video_gate,
            kept_patches=output.kept_patches,
        )
        return result if return_dict is not False else result.to_tuple()


__all__ = [
    "EmotionClassifierOutput",
    "MultimodalFerForEmotionClassification",
    "MultimodalFerModel",
    "MultimodalFerModelOutput",
    "MultimodalFerPreTrainedModel",
]
