"""Sound and pictures given as arrays of any type, framework and rate."""

import numpy as np
import pytest
import torch
from media import grey_frames, tone
from test_multimodal_fer_processing import new_processor

from hf_fer.models.multimodal_fer.arrays_multimodal_fer import as_samples

WAVE = tone(0.5, 16000)[0]


@pytest.mark.parametrize(
    "given",
    [
        (WAVE * 2**15).astype(np.int16),
        (WAVE * 2**31).astype(np.int32),
        (WAVE * 2**7 + 2**7).astype(np.uint8),
        WAVE.astype(np.float64),
        torch.from_numpy((WAVE * 2**15).astype(np.int16)),
        torch.from_numpy(WAVE).requires_grad_(),
        np.stack([WAVE, WAVE]),
        np.stack([WAVE] * 12, axis=1),
        {"array": WAVE, "sampling_rate": 16000},
    ],
)
def test_every_form_of_a_sound_is_the_same_sound(given):
    np.testing.assert_allclose(as_samples(given, None, 16000), WAVE, atol=0.01)
    processor = new_processor()
    features = processor(audio=given)["input_features"]
    # Eight bits hiss in the mel bins where the tone is not; loud bins and the mean of all others agree.
    assert features.max() == pytest.approx(processor(audio=WAVE)["input_features"].max().item(), abs=0.02)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_another_rate_is_resampled_where_it_is_given(convert):
    samples = as_samples(convert(tone(0.5, 44100)[0]), 44100, 16000)
    assert len(samples) == 8000
    np.testing.assert_allclose(samples[500:-500], WAVE[500:-500], atol=0.01)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (WAVE, 0, "positive"),
        (WAVE, float("inf"), "positive"),
        (WAVE, "16k", "positive"),
        ((WAVE * 2**15).astype(int).tolist(), 16000, "int64 do not tell the range"),
        (torch.tensor((WAVE * 2**15).astype(int).tolist()), 16000, "int64 do not tell the range"),
        (WAVE, -1, "positive"),
        (WAVE * 20000, None, r"in \[-1, 1\]"),
        (WAVE > 0, None, "floats or integers"),
        ({"array": WAVE}, None, "sampling_rate"),
        ({"array": WAVE, "sampling_rate": 8000}, 16000, "says 8000 Hz"),
    ],
)
def test_what_cannot_be_known_is_refused(audio, rate, message):
    with pytest.raises(ValueError, match=message):
        as_samples(audio, rate, 16000)


def test_video_and_videos_are_one_argument():
    processor, frames = new_processor(), np.stack(grey_frames(6))
    both = processor(audio=WAVE, video=torch.from_numpy(frames))
    torch.testing.assert_close(both["pixel_values"], processor(videos=frames)["pixel_values"])
    with pytest.raises(ValueError, match="the same"):
        processor(video=frames, videos=frames)
    with pytest.raises(TypeError, match="vidoe"):
        processor(audio=WAVE, vidoe=frames)
