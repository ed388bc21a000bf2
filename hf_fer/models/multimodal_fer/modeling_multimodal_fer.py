"""Audio-visual emotion recognition: FastConformer and SigLIP2 encoders, fused by LFM2 over time segments.

Shapes use B (batch), F (frames), N (patches of a frame), S (segments), D (width), C (classes).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Lfm2Model, ParakeetEncoder, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .backbones_multimodal_fer import load_backbone, with_backbones
from .configuration_multimodal_fer import MultimodalFerConfig
from .layers_multimodal_fer import (
    LEARNED_TOKENS,
    GatedModalityProjection,
    ModalityEmbedding,
    RoiTokenCompression,
    SegmentAttentionPooling,
    TemporalEncoder,
    TokenPooling,
    check_pixels,
    in_half,
    keep_frozen_statistics,
    mlp,
    reset_to_torch_default,
)
from .outputs_multimodal_fer import STATES, EmotionClassifierOutput, MultimodalFerModelOutput, recorded
from .vision_multimodal_fer import FrameEncoder


class MultimodalFerPreTrainedModel(PreTrainedModel):
    """Weight initialisation, freezing of encoders, and class attributes that transformers reads."""

    config: MultimodalFerConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = ("audio", "video")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["ParakeetEncoderBlock", "SiglipEncoderLayer", "Lfm2DecoderLayer", "TemporalBlock"]

    def post_init(self):
        super().post_init()
        # FSDP raises if a class to wrap is not in the model.
        built = {type(part).__name__ for part in self.modules()}
        self._no_split_modules = sorted(built & set(self._no_split_modules))
        if "audio" not in self.config.modalities:
            self.main_input_name = "visual_features" if self.config.visual_feature_size else "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv1d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        for name, parameter in module.named_parameters(recurse=False):
            if name in LEARNED_TOKENS:
                init.normal_(parameter, std=self.config.initializer_range)

    @classmethod
    def from_backbones_pretrained(
        cls,
        config: MultimodalFerConfig | None = None,
        *,
        audio: str | None = None,
        vision: str | None = None,
        fusion: str | None = None,
        fusion_num_layers: int | None = None,
        **hub: Any,
    ) -> "MultimodalFerPreTrainedModel":
        """
        A new model whose encoders start from checkpoints; its other weights are initialised randomly.

        Args:
            config: Configuration of the other modules; the `light` preset by default.
            audio: FastConformer: any Parakeet checkpoint, whose encoder is loaded.
            vision: SigLIP2 of fixed resolution, such as `google/siglip2-base-patch16-224`; the image tower is loaded.
            fusion: LFM2, such as `LiquidAI/LFM2-700M`; its token embeddings are not loaded.
            fusion_num_layers: Keep only this many first layers of LFM2.
            hub: `token`, `revision`, `cache_dir`, ... for the Hub.

        Raises:
            ValueError: the model lacks a named encoder, a checkpoint is of another model type, or weights do not
                match; the message lists them.
            OSError: the checkpoint does not exist.
        """
        given = {"audio": audio, "vision": vision, "fusion": fusion}
        backbones = {part: name for part, name in given.items() if name is not None}
        model = cls(with_backbones(config or MultimodalFerConfig(), backbones, fusion_num_layers, **hub))
        parts = model.encoders()
        for part, name in backbones.items():
            if part not in parts:
                raise ValueError(f"Cannot load {name} into {part!r}; this model has {sorted(parts)}.")
            load_backbone(parts[part], part, name, **hub)
        return model

    def encoders(self) -> dict[str, nn.Module]:
        """The encoders that can be loaded, frozen and unfrozen by name."""
        return getattr(self, self.base_model_prefix, self).parts()

    def freeze(self, parts: Iterable[str]) -> None:
        """
        Freeze the named encoders. They also stay in evaluation mode, so that BatchNorm keeps its statistics.

        Args:
            parts: Any of `"audio"`, `"vision"` and `"fusion"`.

        Raises:
            ValueError: an encoder is unknown, or the model was built without it.
        """
        self._set_trainable(parts, False)

    def unfreeze(self, parts: Iterable[str]) -> None:
        """Make the named encoders trainable again; see `freeze`."""
        self._set_trainable(parts, True)

    def _set_trainable(self, parts: Iterable[str], trainable: bool) -> None:
        encoders = self.encoders()
        for part in parts:
            if part not in encoders:
                raise ValueError(f"Cannot freeze {part!r}; this model has {sorted(encoders)}.")
            encoders[part].requires_grad_(trainable)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for encoder in self.encoders().values():
            if not any(parameter.requires_grad for parameter in encoder.parameters()):
                nn.Module.train(encoder, False)
        keep_frozen_statistics(self)
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
            if config.visual_feature_size:
                self.visual_feature_projection = nn.Linear(
                    config.visual_feature_size, config.vision_config.hidden_size
                )
            else:
                self.vision_encoder = FrameEncoder._from_config(config.vision_config)
            self.roi_compression = RoiTokenCompression(config)
            self.temporal_encoder = TemporalEncoder(config)
            self.video_projection = GatedModalityProjection(config.vision_config.hidden_size, fusion_size)
        self.modality_embedding = ModalityEmbedding(len(config.modalities), fusion_size)
        self.fusion = Lfm2Model._from_config(config.lfm2_config)
        self.fusion.embed_tokens = None
        reset_to_torch_default(self.fusion)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that the sound meets, or, in a model without sound, the frames; there are no tokens."""
        holder, name = self._first_layer()
        return getattr(holder, name)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another in the place of the layer of `get_input_embeddings`."""
        setattr(*self._first_layer(), value)

    def _first_layer(self) -> tuple[nn.Module, str]:
        """The module that has the layer of `get_input_embeddings`, and its name there."""
        if "audio" in self.config.modalities:
            return self.audio_encoder, "subsampling"
        if self.config.visual_feature_size:
            return self, "visual_feature_projection"
        return self.vision_encoder.embeddings, "patch_embedding"

    def parts(self) -> dict[str, nn.Module]:
        """The encoders that can be frozen or loaded by name."""
        named = {"audio": "audio_encoder", "vision": "vision_encoder", "fusion": "fusion"}
        return {part: getattr(self, name) for part, name in named.items() if hasattr(self, name)}

    def encode_sound(self, input_features: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mels `(B, T, mel_bins)` and mask `(B, T)` -> the encoder's frames `(B, T', D_a)` and mask `(B, T')`."""
        encoded = self._hear(input_features, attention_mask)
        return encoded.last_hidden_state, encoded.attention_mask

    def _hear(self, input_features: Tensor, attention_mask: Tensor, **record: Any) -> ModelOutput:
        """The audio encoder's whole output; see `encode_sound` and `recorded`."""
        input_features = in_half(input_features, self.audio_encoder.dtype)
        return self.audio_encoder(input_features=input_features, attention_mask=attention_mask.bool(), **record)

    def _encode_audio(
        self,
        input_features: Tensor | None,
        attention_mask: Tensor | None,
        audio_hidden_states: Tensor | None,
        **record: Any,
    ) -> tuple[Tensor, Tensor, Tensor, ModelOutput]:
        """
        Log-mels or their encoded frames, with a mask -> tokens `(B, S, D)`, gate `(B, S)`, present `(B,)`.

        Also the encoder's output, with what `record` asks it for.
        """
        given = input_features if audio_hidden_states is None else audio_hidden_states
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        present = attention_mask.any(dim=-1)
        encoded = ModelOutput()
        if audio_hidden_states is None:
            encoded = self._hear(input_features, attention_mask, **record)
            audio_hidden_states, attention_mask = encoded.last_hidden_state, encoded.attention_mask
        states = audio_hidden_states.to(self.dtype)
        tokens, gate = self.audio_projection(self.audio_pooling(states, attention_mask.sum(dim=-1)))
        return tokens, gate, present, encoded

    def encode_pictures(self, pixel_values: Tensor) -> Tensor:
        """Frames of any clips `(M, 3, height, width)` -> the encoder's patches `(M, N, D_v)`."""
        return self._see(pixel_values).last_hidden_state

    def _see(self, pixel_values: Tensor, **record: Any) -> ModelOutput:
        """The vision encoder's whole output; see `encode_pictures` and `recorded`."""
        resized = pixel_values.shape[-1] != self.config.vision_config.image_size
        pixel_values = in_half(pixel_values, self.vision_encoder.dtype)
        return self.vision_encoder(pixel_values=pixel_values, interpolate_pos_encoding=resized, **record)

    def _encode_video(
        self,
        pixel_values: Tensor | None,
        frame_mask: Tensor | None,
        visual_features: Tensor | None,
        roi_mask: Tensor | None,
        **record: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, ModelOutput]:
        """
        Frames or their patch features -> tokens `(B, S, D)`, gate `(B, S)`, kept `(B, F, K)`, present `(B,)`.

        Also the encoder's output, with what `record` asks it for.
        """
        encoded = ModelOutput()
        if visual_features is None:
            batch, frames = pixel_values.shape[:2]
            encoded = self._see(pixel_values.flatten(0, 1), **record)
            visual_features = encoded.last_hidden_state
        else:
            batch, frames = visual_features.shape[:2]
            visual_features = visual_features.flatten(0, 1).to(self.dtype)
            if self.config.visual_feature_size:
                visual_features = self.visual_feature_projection(visual_features)
        if frames > self.config.num_frames:
            raise ValueError(f"Got {frames} frames per clip; this model takes at most {self.config.num_frames}.")
        if frame_mask is None:
            frame_mask = torch.ones((batch, frames), dtype=torch.bool, device=visual_features.device)
        tokens, kept = self.roi_compression(visual_features, None if roi_mask is None else roi_mask.flatten(0, 1))
        tokens = self.temporal_encoder(tokens.unflatten(0, (batch, frames)), frame_mask.bool())
        tokens, gate = self.video_projection(tokens)
        return tokens, gate, kept.unflatten(0, (batch, frames)), frame_mask.any(dim=-1), encoded

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

    def fuse(self, tokens: dict[str, Tensor], visible: dict[str, Tensor], **record: Any) -> tuple[ModelOutput, Tensor]:
        """Per-modality tokens `(B, S, D)` -> LFM2's output, interleaved `(B, S * modalities, D)`, and their mask."""
        sequence, masks = [], []
        for index, modality in enumerate(self.config.modalities):
            shown = visible.get(modality, torch.zeros_like(next(iter(visible.values()))))
            sequence.append(self.modality_embedding(index, tokens.get(modality), shown, self.config.num_segments))
            masks.append(shown[:, None].expand(-1, self.config.num_segments))
        hidden_states = self.dropout(torch.stack(sequence, dim=2).flatten(1, 2))
        fused = self.fusion(inputs_embeds=hidden_states, use_cache=False, **record)
        return fused, torch.stack(masks, dim=2).flatten(1, 2)

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        visual_features: Tensor | None = None,
        roi_mask: Tensor | None = None,
        audio_hidden_states: Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> MultimodalFerModelOutput:
        """
        Args:
            input_features (`torch.Tensor` of shape `(B, mel_frames, mel_bins)`): Log-mel features.
            attention_mask (`torch.Tensor` of shape `(B, mel_frames)`): 1 on valid mel frames.
            pixel_values (`torch.Tensor` of shape `(B, F, 3, height, width)`): Normalised frames; of a size other than
                `config.vision_config.image_size`, the encoder interpolates its position embedding.
            frame_mask (`torch.Tensor` of shape `(B, F)`): 1 on valid video frames.
            visual_features (`torch.Tensor` of shape `(B, F, N, D_v)`): Features computed elsewhere, in place of
                `pixel_values`: the vision encoder's own patches, or, where the model was built with
                `config.visual_feature_size`, features of that width.
            roi_mask (`torch.Tensor` of shape `(B, F, N)`): Region of interest, which raises the patch scores.
            audio_hidden_states (`torch.Tensor` of shape `(B, T', D_a)`): The audio encoder's frames, in place of
                `input_features`; `attention_mask` is then `(B, T')`.
            output_hidden_states (`bool`, `int` or `list[int]`): Also return the hidden states of LFM2 and of the
                encoders, all or those of these indices.
            output_attentions (`bool`): Also return their attention weights, which a model that was loaded with
                `attn_implementation="eager"` has.

        Raises:
            ValueError: pixels have another shape, neither modality is given, or one that the model was built without,
                pixels are given to a model of features, or there are more frames than `config.num_frames`.
        """
        has_audio = input_features is not None or audio_hidden_states is not None
        has_video = pixel_values is not None or visual_features is not None
        for given, modality in ((has_audio, "audio"), (has_video, "video")):
            if given and modality not in self.config.modalities:
                raise ValueError(f"Got {modality}, but this model was built for {self.config.modalities}.")
        check_pixels(pixel_values, self.config)
        if not (has_audio or has_video):
            raise ValueError(f"Give at least one of {self.config.modalities}: input_features or pixel_values.")
        record = recorded(self.config, output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        tokens, present = {}, {}
        audio_gate = video_gate = kept = None
        sound = pictures = ModelOutput()
        if has_audio:
            tokens["audio"], audio_gate, present["audio"], sound = self._encode_audio(
                input_features, attention_mask, audio_hidden_states, **record
            )
        if has_video:
            tokens["video"], video_gate, kept, present["video"], pictures = self._encode_video(
                pixel_values, frame_mask, visual_features, roi_mask, **record
            )
        fused, token_mask = self.fuse(tokens, self.visible(present), **record)
        return MultimodalFerModelOutput(
            last_hidden_state=fused.last_hidden_state,
            token_mask=token_mask,
            audio_tokens=tokens.get("audio"),
            video_tokens=tokens.get("video"),
            audio_present=present.get("audio"),
            video_present=present.get("video"),
            audio_gate=audio_gate,
            video_gate=video_gate,
            kept_patches=kept,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
            audio_hidden_states=sound.get("hidden_states"),
            audio_attentions=sound.get("attentions"),
            video_hidden_states=pictures.get("hidden_states"),
            video_attentions=pictures.get("attentions"),
        )


class MultimodalFerForEmotionClassification(MultimodalFerPreTrainedModel):
    """[`MultimodalFerModel`] with a pooled MLP classifier, auxiliary heads and an audio-visual InfoNCE."""

    def __init__(self, config: MultimodalFerConfig):
        super().__init__(config)
        width = config.lfm2_config.hidden_size
        self.model = MultimodalFerModel(config)
        self.pooling = TokenPooling(width, config.classifier_pooling)
        self.classifier = mlp(width, config.classifier_widths, config.num_labels, config.classifier_dropout)
        if config.auxiliary_loss_weight:
            self.auxiliary = nn.ModuleDict({name: nn.Linear(width, config.num_labels) for name in config.modalities})
        if config.contrastive_loss_weight and len(config.modalities) == 2:
            self.contrastive = nn.ModuleDict({name: nn.Linear(width, width) for name in config.modalities})
        self.post_init()

    def classification_loss(self, logits: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
        """
        Smoothed cross entropy, `(B, C)` and `(B,)` -> `()`. Labels of -100 are ignored.

        The sum over the `present` examples is divided by the number of labels, and not by the number of present
        examples or the sum of class weights, so that gradient accumulation over equal micro-batches gives the
        gradient of one large batch.
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
        """Symmetric InfoNCE (arXiv 1807.03748) of clip vectors `(B, D)`; other clips of the batch are negatives."""
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

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        visual_features: Tensor | None = None,
        roi_mask: Tensor | None = None,
        audio_hidden_states: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> EmotionClassifierOutput:
        """
        Args:
            labels (`torch.LongTensor` of shape `(B,)`): Class indices; -100 is ignored.

        The other arguments and the errors are those of [`MultimodalFerModel`].
        """
        output = self.model(
            input_features,
            attention_mask,
            pixel_values,
            frame_mask,
            visual_features,
            roi_mask,
            audio_hidden_states,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classifier(self.pooling(output.last_hidden_state, output.token_mask))
        segments = output.last_hidden_state.unflatten(1, (self.config.num_segments, -1)).mean(dim=2)
        auxiliary = self.auxiliary_logits(output)
        return EmotionClassifierOutput(
            loss=None if labels is None else self.total_loss(logits, auxiliary, output, labels),
            logits=logits,
            audio_logits=auxiliary.get("audio"),
            video_logits=auxiliary.get("video"),
            segment_logits=self.classifier(segments),
            audio_gate=output.audio_gate,
            video_gate=output.video_gate,
            kept_patches=output.kept_patches,
            **{name: getattr(output, name) for name in STATES},
        )


__all__ = [
    "EmotionClassifierOutput",
    "MultimodalFerForEmotionClassification",
    "MultimodalFerModel",
    "MultimodalFerModelOutput",
    "MultimodalFerPreTrainedModel",
]
