"""Layers of the audio-visual emotion model that no library has.

Shapes use B (batch), F (frames), N (patches of a frame), K (patches kept), G (global tokens), S (segments), D (width).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_multimodal_fer import MultimodalFerConfig

LEARNED_TOKENS = (
    "query",
    "segment_embedding",
    "global_tokens",
    "frame_embedding",
    "segment_queries",
    "type_embedding",
    "missing_embedding",
)
"""Parameters of the layers here that are neither weights nor biases; the model draws them from a normal."""


def in_half(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts inputs to the model's type where that is half precision, and returns them unchanged otherwise."""
    return tensor.to(dtype) if dtype in (torch.float16, torch.bfloat16) else tensor


def keep_frozen_statistics(model: nn.Module) -> None:
    """Puts each BatchNorm without trainable weights in evaluation mode, to keep its statistics, adapters or not."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and not any(value.requires_grad for value in layer.parameters()):
            layer.train(False)


def check_pixels(pixel_values: Tensor | None, config: MultimodalFerConfig) -> None:
    """Raises `ValueError` where pixels are not `(B, F, 3, height, width)`, or the model has no encoder for them."""
    if pixel_values is None:
        return
    if config.visual_feature_size:
        raise ValueError("This model was built for visual_features and has no encoder for pixel_values.")
    if pixel_values.ndim != 5:
        raise ValueError(
            f"pixel_values must be (clips, frames, 3, height, width), got {tuple(pixel_values.shape)}. The stock "
            'pipeline("video-classification") does not prepare clips for this model: use '
            'pipeline("audio-visual-emotion-recognition").'
        )


def reset_to_torch_default(module: nn.Module) -> None:
    """
    Initialise convolutions and linear layers again with torch's defaults, which scale with the fan-in.

    The normal(0, 0.02) of Parakeet and LFM2 suits their own widths. In a small encoder trained from scratch, the
    subsampling convolutions, whose fan-in is 9, then give outputs near zero, and learning stalls for many epochs.
    SigLIP's initialisation is larger than torch's; before BatchNorm only the relative size of a step matters, and a
    convolutional stem so initialised learns more slowly.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            part.reset_parameters()


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis where `mask` is true; a row with no true entry becomes uniform instead of NaN."""
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


def mlp(width: int, hidden: list[int], outputs: int, dropout: float) -> nn.Sequential:
    """A layer norm, hidden layers of these widths with GELU and dropout, and a linear layer to the outputs."""
    layers: list[nn.Module] = [nn.LayerNorm(width)]
    for size in hidden:
        layers += [nn.Linear(width, size), nn.GELU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class SegmentAttentionPooling(nn.Module):
    """
    Summarise a sequence of any length in S tokens.

    The valid frames are cut into S segments with the bounds of adaptive average pooling, so a sequence shorter than
    S still fills every segment. Each segment is averaged with attention weights from its own learned query, and a
    learned segment embedding gives its position in the clip.
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
            # The additive bias is finite, so that a clip without any frame does not become NaN.
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
            bias = bias[:, None, None, :].expand(-1, 1, query.shape[2], -1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class RoiTokenCompression(nn.Module):
    """
    Keep the K patches of each frame with the highest scores, and add G tokens that attend to all patches.

    A small MLP scores the patches. Kept patches are multiplied by the sigmoid of their score, which gives the scorer
    its gradient, because top-k has none. A `roi_mask`, such as a face box, is added to the score and not multiplied,
    because a product would lower patches of negative score.
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
            queries = self.global_tokens.expand(patches.shape[0], -1, -1)
            tokens = torch.cat([tokens, self.global_attention(queries, patches)], dim=1)
        return tokens, kept


class GatedShortConvolution(nn.Module):
    """
    The operator of LFM2 (arXiv 2511.23404), `y = W_out(c * conv(b * h))` with `(b, c, h) = split(W_in x)`.

    Unlike LFM2's it is centred and not causal, because the whole clip is known.
    """

    def __init__(self, hidden_size: int, kernel_size: int):
        super().__init__()
        self.kernel_size = kernel_size
        self.in_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """`(B, F, D)`, mask `(B, F)` -> `(B, F, D)`; masked frames do not affect their neighbours."""
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
        queries = self.segment_queries.expand(tokens.shape[0], -1, -1)
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


class ModalityEmbedding(nn.Module):
    """Type embeddings of the modalities, and embeddings that replace a missing one; `(modalities, D)` each."""

    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__()
        self.type_embedding = nn.Parameter(torch.empty(num_modalities, hidden_size))
        self.missing_embedding = nn.Parameter(torch.empty(num_modalities, hidden_size))

    def forward(self, index: int, tokens: Tensor | None, shown: Tensor, num_tokens: int) -> Tensor:
        """Tokens `(B, S, D)` of modality `index`, or `None`, and which examples show them `(B,)` -> `(B, S, D)`."""
        missing = self.missing_embedding[index].expand(shown.shape[0], num_tokens, -1)
        given = missing if tokens is None else torch.where(shown[:, None, None], tokens, missing)
        return given + self.type_embedding[index]


class TokenPooling(nn.Module):
    """Pools fused tokens into one vector: mean, max, last or learned attention over tokens that are present."""

    def __init__(self, hidden_size: int, kind: str):
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.score = nn.Linear(hidden_size, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)`, mask `(B, T)` -> `(B, D)`. `last` takes the final position, which has attended to all."""
        if self.kind == "last":
            return tokens[:, -1]
        if self.kind == "max":
            masked = tokens.masked_fill(~mask[..., None], torch.finfo(tokens.dtype).min)
            return torch.where(mask.any(dim=1)[:, None], masked.amax(dim=1), tokens.amax(dim=1))
        scores = self.score(tokens).squeeze(-1) if self.kind == "attention" else torch.zeros_like(tokens[..., 0])
        return torch.einsum("bt,btd->bd", masked_softmax(scores, mask), tokens)


__all__ = [
    "LEARNED_TOKENS",
    "GatedModalityProjection",
    "GatedShortConvolution",
    "ModalityEmbedding",
    "MultiHeadAttention",
    "RoiTokenCompression",
    "SegmentAttentionPooling",
    "TemporalBlock",
    "TemporalEncoder",
    "TokenPooling",
    "check_pixels",
    "in_half",
    "keep_frozen_statistics",
    "masked_softmax",
    "mlp",
    "reset_to_torch_default",
]
