"""What multimodal_fer computes once per clip and keeps: decoded media, and what frozen encoders make of it.

| cache | array of a file | depends, beside the file, on |
| --- | --- | --- |
| `audio_samples` | `float32 (samples,)`, mono, trimmed | rate and trimming |
| `video_frames` | `uint8 (F, 3, H, W)`, cropped and resized | number, crop and size of the frames |
| `visual_features` | `float16 (F, N, D_v)`, the vision encoder's patches | pixel settings, weights, compute type |
| `audio_hidden_states` | `float16 (T, D_a)`, the audio encoder's valid frames | log-mel settings, the same |
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_fer.adapters import base_model
from hf_fer.data.cache import ArrayCache, weights_digest
from hf_fer.data.loading import LoadedData, append_skipped, enforce_skip_limit, read_skipped
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.task.base import Task
from hf_fer.task.settings import skipped_file

from ..decoding_multimodal_fer import UnusableMediaError, is_feature_reference
from ..processing_multimodal_fer import MultimodalFerProcessor
from .arguments import MultimodalFerDataArguments
from .clips import unusable_reason
from .preprocessing import as_json, cache_keys

FEATURES = {"audio": "audio_hidden_states", "video": "visual_features"}
"""Name of an encoder's outputs as a model input, by modality."""

PROBED_FILES = 4
"""Files that are decoded to estimate the length of the others' sound."""


def is_frozen(encoder: nn.Module | None) -> bool:
    """Whether there is such an encoder, and nothing in it trains."""
    return encoder is not None and not any(parameter.requires_grad for parameter in encoder.parameters())


def resized(processor: MultimodalFerProcessor, frames: np.ndarray) -> np.ndarray:
    """Frames `(F, H, W, 3)` at the model's size, `uint8 (F, 3, height, width)`; resizing again changes nothing."""
    channels_first = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return processor.image_processor(
        channels_first, return_tensors="pt", input_data_format="channels_first", do_rescale=False, do_normalize=False
    )["pixel_values"].numpy()


class DecodedClips:
    """
    Sound and frames of files, decoded once. Decoding is also the check that a file can be used.

    Args:
        processor: Decodes.
        workers: Threads.
        main_process, disable_tqdm: See `ArrayCache.build`.
    """

    def __init__(self, processor: MultimodalFerProcessor, *, workers: int, main_process: bool, disable_tqdm: bool):
        self.processor = processor
        self.workers = workers
        self.display = {"main_process": main_process, "disable_tqdm": disable_tqdm}
        keys = cache_keys(processor)
        self.caches = {
            "audio": ArrayCache("audio_samples", keys["audio_samples"], "float32"),
            "video": ArrayCache("video_frames", keys["video_frames"], "uint8"),
        }

    def reasons(self, items: list[tuple[str, str]]) -> list[str | None]:
        """Why each `(path, modality)` cannot be had, or `None`, in order; what can be had of media is cached."""
        features = [item for item in items if is_feature_reference(item[0])]
        reasons = {item: unusable_reason(self.processor, *item) for item in features}
        for modality, cache in self.caches.items():
            paths = [path for path, wanted in items if wanted == modality and (path, wanted) not in reasons]
            missing = cache.missing(paths)
            if missing:
                decode = partial(self._decode_all, modality=modality, reasons=reasons)
                cache.build(paths, decode, item_bytes=self.item_bytes(modality, missing), **self.display)
        return [reasons.get(item) for item in items]

    def plan(self, paths: dict[str, list[str]]) -> list[str]:
        """What caching files would need, in words; `paths` by modality."""
        return [self.caches[name].plan(files, self.item_bytes(name, files)) for name, files in paths.items()]

    def item_bytes(self, modality: str, paths: list[str]) -> int:
        """Size of an array; of sound the mean of a few files."""
        if modality == "video":
            size = self.processor.image_processor.size
            return self.processor.num_frames * 3 * size["height"] * size["width"]
        arrays = self._decode_all(paths[:: max(1, len(paths) // PROBED_FILES)][:PROBED_FILES], modality, {})
        sizes = [array.nbytes for array in arrays if array is not None]
        return int(np.mean(sizes)) if sizes else 1

    def _decode(self, path: str, modality: str) -> np.ndarray:
        if modality == "audio":
            return self.processor.load_audio(path)
        return resized(self.processor, self.processor.load_video(path))

    def _decode_all(
        self, paths: list[str], modality: str, reasons: dict[tuple[str, str], str | None]
    ) -> Iterator[np.ndarray | None]:
        def attempt(path: str) -> np.ndarray | None:
            try:
                return self._decode(path, modality)
            except UnusableMediaError as error:
                reasons[path, modality] = error.reason
                return None

        # These threads are the parallelism: torch's own in each of them would only be in their way. What they set is
        # also what every thread that torch has not seen yet starts with, so it is set back.
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(attempt, paths)
        finally:
            torch.set_num_threads(threads)


class EncodedClips:
    """
    Outputs of frozen encoders, computed once from decoded clips, in half precision where the recipe trains in it.

    Args:
        model: With the encoders; those that train, in full or by an adapter, are left alone.
        processor: Decoded clips to model inputs.
        decoded: Where the clips come from.
        args: Device, batch size (that of evaluation) and precision.
        skipped_file: Where clips are listed whose features are not finite.

    Attributes:
        caches: By modality.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: MultimodalFerProcessor,
        decoded: DecodedClips,
        args: TrainingArguments,
        skipped_file: Path,
    ):
        self.model = base_model(model).base_model
        self.processor = processor
        self.decoded = decoded
        self.args = args
        self.skipped_file = skipped_file
        self.compute_type = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        keys = cache_keys(processor)
        self.encoders = {
            modality: self.model.parts()[part]
            for modality, part in (("audio", "audio"), ("video", "vision"))
            if is_frozen(self.model.parts().get(part))
        }
        self.caches = {
            modality: ArrayCache(
                FEATURES[modality], {**keys[FEATURES[modality]], **self._encoder_facts(encoder)}, "float16"
            )
            for modality, encoder in self.encoders.items()
        }

    def _encoder_facts(self, encoder: PreTrainedModel) -> dict[str, Any]:
        compute = f"{encoder.dtype} under {self.compute_type}"
        return {"weights": weights_digest(encoder), "config": as_json(encoder.config), "compute": compute}

    def fill(self, paths: dict[str, list[str]]) -> None:
        """Compute what is missing, `paths` by modality, and let go of the model, which training builds anew."""
        compute = {"audio": self._audio_hidden_states, "video": self._visual_features}
        for modality, encoder in self.encoders.items():
            if self.caches[modality].missing(paths.get(modality, [])):
                home = encoder.device
                encoder.to(self.args.device)
                item_bytes = self.item_bytes(modality, paths[modality])
                self.caches[modality].build(
                    paths[modality], compute[modality], item_bytes=item_bytes, **self.decoded.display
                )
                encoder.to(home)
        self.encoders.clear()
        del self.model

    def plan(self, paths: dict[str, list[str]]) -> list[str]:
        """What `fill` would need, in words; `paths` by modality."""
        wanted = [(cache, name) for name, cache in self.caches.items() if name in paths]
        return [cache.plan(paths[name], self.item_bytes(name, paths[name])) for cache, name in wanted]

    def item_bytes(self, modality: str, paths: list[str]) -> int:
        """Size of an array; of sound the mean of a few files."""
        config = self.model.config
        if modality == "video":
            size, patch = self.processor.image_processor.size, config.vision_config.patch_size
            patches = (size["height"] // patch) * (size["width"] // patch)
            return 2 * self.processor.num_frames * patches * config.vision_config.hidden_size
        samples = self.decoded.item_bytes("audio", paths) // 4
        frames = samples // self.processor.feature_extractor.hop_length // config.audio_config.subsampling_factor
        return 2 * (frames + 1) * config.audio_config.hidden_size

    def _batches(self, paths: list[str]) -> Iterator[list[str]]:
        size = self.args.per_device_eval_batch_size
        return (paths[start : start + size] for start in range(0, len(paths), size))

    def _visual_features(self, paths: list[str]) -> Iterator[np.ndarray | None]:
        encoder, frames = self.encoders["video"], self.decoded.caches["video"]
        for batch in self._batches(paths):
            pixels = torch.cat(
                [self.processor.video_features(torch.from_numpy(frames[path].copy())) for path in batch]
            )
            with self._computing():
                patches = self.model.encode_pictures(pixels.to(encoder.device, encoder.dtype))
            for path, clip in zip(batch, patches.chunk(len(batch)), strict=True):
                yield self._stored(path, clip)

    def _audio_hidden_states(self, paths: list[str]) -> Iterator[np.ndarray | None]:
        encoder, samples = self.encoders["audio"], self.decoded.caches["audio"]
        for batch in self._batches(paths):
            examples = [{"input_features": self.processor.audio_features(samples[path])} for path in batch]
            inputs = self.processor.pad(examples).to(encoder.device)
            with self._computing():
                states, mask = self.model.encode_sound(
                    inputs["input_features"].to(encoder.dtype), inputs["attention_mask"]
                )
            for path, clip, length in zip(batch, states, mask.sum(dim=-1), strict=True):
                yield self._stored(path, clip[:length])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        autocast = self.compute_type != torch.float32
        with torch.no_grad(), torch.autocast(self.args.device.type, self.compute_type, enabled=autocast):
            yield

    def _stored(self, path: str, states: Tensor) -> np.ndarray | None:
        stored = states.to(torch.float16)
        if stored.isfinite().all():
            return stored.cpu().numpy()
        reason = "an encoder's outputs for it are not finite, or too large for float16"
        append_skipped(self.skipped_file, [{"path": path, "reason": reason}])
        return None


@dataclass(frozen=True)
class Stored:
    """What is read in place of files, where the recipe has caches: decoded clips, and outputs of frozen encoders."""

    decoded: DecodedClips | None = None
    encoded: EncodedClips | None = None

    def by_kind(self) -> dict[str, ArrayCache]:
        """The caches, by the name of what they hold."""
        stages = [stage for stage in (self.decoded, self.encoded) if stage]
        return {cache.kind: cache for stage in stages for cache in stage.caches.values()}


def decoded_clips(
    processor: MultimodalFerProcessor, args: MultimodalFerDataArguments, training_args: TrainingArguments
) -> DecodedClips:
    """The caches of decoded media."""
    return DecodedClips(
        processor,
        workers=args.check_workers,
        main_process=training_args.local_process_index == 0,
        disable_tqdm=training_args.disable_tqdm,
    )


class ClipCaches:
    """
    The caches of a recipe, to be planned or filled; see `hf_fer.task.base.Caches`.

    Args:
        task: Its recipe has `cache`.
        data: Of which reading has filled the caches of decoded media.
        processor: Of the model that is trained.
    """

    def __init__(self, task: Task, data: LoadedData, processor: MultimodalFerProcessor):
        self.task = task
        self.data = data
        self.processor = processor
        self.paths = {
            modality: [
                path
                for split in data.splits.values()
                for path in split[modality]
                if path and not is_feature_reference(path)
            ]
            for modality in task.data_args.modalities
        }

    def plan(self, model: PreTrainedModel) -> list[str]:
        """What `fill`, and the reading of the data, would need."""
        decoded = decoded_clips(self.processor, self.task.data_args, self.task.training_args)
        lines = decoded.plan(self.paths)
        if self.task.data_args.cache == "decoded":
            return lines
        encoded = self._encoded(model, decoded)
        return [*lines, *encoded.plan(self.paths), *self._lost_augmentation(encoded)]

    def fill(self, new_model: Callable[[], PreTrainedModel]) -> LoadedData:
        """Compute what frozen encoders make of every clip; raises `DataError` where too many clips cannot be used."""
        data, args = self.data, self.task.data_args
        if args.cache == "decoded":
            return data
        encoded = self._encoded(new_model(), data.own.decoded)
        encoded.fill(self.paths)
        data.notes.extend(self._lost_augmentation(encoded))
        total = sum(len(split) for split in data.splits.values()) + len(data.skipped)
        enforce_skip_limit(read_skipped(skipped_file(self.task)), total, args.max_skipped_fraction)
        return replace(data, own=replace(data.own, encoded=encoded))

    def _encoded(self, model: PreTrainedModel, decoded: DecodedClips) -> EncodedClips:
        return EncodedClips(model, self.processor, decoded, self.task.training_args, skipped_file(self.task))

    def _lost_augmentation(self, encoded: EncodedClips) -> list[str]:
        if not (self.task.data_args.augment and self.task.training_args.do_train):
            return []
        lost = {"audio": "sound (gain, noise, shift, stretch, masks)", "video": "pictures (flip, colour, crop)"}
        return [
            f"No augmentation of {lost[modality]}: the frozen encoder's outputs were computed once and cached."
            for modality in encoded.caches
        ]
