"""Which patches of the frames were kept: the pipeline's answer on request, and pictures of them."""

import numpy as np
import pytest
import torch
from media import talking_clip, tone, write_clip
from models.multimodal_fer.test_multimodal_fer_processing import new_processor
from transformers import pipeline

from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.patches_multimodal_fer import fade, frames_seen, patch_grids


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = MultimodalFerConfig.from_preset("tiny", num_frames=6)
    MultimodalFerForEmotionClassification(config).save_pretrained(folder)
    new_processor().save_pretrained(folder)
    return pipeline("audio-visual-emotion-recognition", model=str(folder))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return talking_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_the_answer_has_the_models_own_patches_and_the_default_one_is_unchanged(classify, clip):
    found, plain = classify(str(clip), kept_patches=True), classify(str(clip))
    assert isinstance(plain, list)
    assert found["labels"] == plain
    config = classify.model.config
    inputs = classify.processor(audio=str(clip), videos=str(clip))
    kept = classify.model(**inputs).kept_patches[0]
    side = config.vision_config.image_size // config.vision_config.patch_size
    assert found["kept_patches"].shape == (6, side, side)
    assert found["frames"].shape == (6, config.vision_config.image_size, config.vision_config.image_size, 3)
    for grid, indices in zip(found["kept_patches"], kept.tolist(), strict=True):
        assert np.flatnonzero(grid).tolist() == indices


def test_batches_and_clips_without_pictures(classify, clip, tmp_path):
    sound = write_clip(tmp_path / "sound.wav", audio=tone(0.5, 16000))
    files = [str(clip), str(sound), str(clip)]
    alone = classify(str(clip), kept_patches=True)
    first, silent, third = classify(files, kept_patches=True, batch_size=3)
    assert silent["frames"] is None
    assert silent["kept_patches"] is None
    assert [one["label"] for one in silent["labels"]] == [one["label"] for one in classify(str(sound))]
    for one in (first, third):
        np.testing.assert_array_equal(one["kept_patches"], alone["kept_patches"])
        np.testing.assert_array_equal(one["frames"], alone["frames"])


@pytest.mark.parametrize("windows", [{"timeline": True}, {"window_seconds": 1.0}])
def test_windows_have_no_patches(classify, clip, windows):
    with pytest.raises(ValueError, match="classified whole"):
        classify(str(clip), kept_patches=True, **windows)


def test_a_grids_cell_is_where_the_patch_is_in_the_picture(classify):
    vision = classify.model.config.vision_config
    side, rows = vision.patch_size, vision.image_size // vision.patch_size
    embed = classify.model.model.vision_encoder.embeddings
    plain = torch.zeros(1, 3, vision.image_size, vision.image_size)
    row, column = 1, rows - 1
    marked = plain.clone()
    marked[..., row * side : (row + 1) * side, column * side : (column + 1) * side] = 1.0
    changed = (embed(marked) - embed(plain)).abs().sum(dim=-1)[0].nonzero().T
    grid = patch_grids(changed, (vision.image_size, vision.image_size), side)[0]
    assert np.argwhere(grid).tolist() == [[row, column]]
    picture = np.full((vision.image_size, vision.image_size, 3), 100, np.uint8)
    faded = fade(picture, grid)
    bright = marked[0, 0].numpy() > 0
    assert (faded[bright] == 100).all()
    assert (faded[~bright] == 175).all()


def test_frames_are_those_that_the_image_processor_resized(classify):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 70, 3), dtype=np.uint8)
    processor = classify.processor.image_processor
    seen = frames_seen(classify.processor.video_features(frames), processor)
    given = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = processor(given, return_tensors="pt", do_normalize=False, do_rescale=False)["pixel_values"]
    assert np.abs(seen.astype(int) - resized.permute(0, 2, 3, 1).numpy().round().astype(int)).max() <= 1
