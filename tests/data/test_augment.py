"""Augmentation: what it does, and that only (seed, epoch, index) decide it."""

import random

import numpy as np
import pytest
import torch
import torchaudio
from transformers import ParakeetFeatureExtractor

from hf_fer.data.augment import AudioAugmenter, Augmentation, EpochClock, VideoAugmenter, seeded, slaney_hertz, warped
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task

NOTHING = {
    "gain_db": 0,
    "noise_probability": 0,
    "shift_fraction": 0,
    "stretch": 0,
    "frequency_masks": 0,
    "time_masks": 0,
    "flip_probability": 0,
    "color": 0,
    "crop_fraction": 0,
}


@pytest.fixture
def wave():
    return (0.3 * np.sin(np.arange(16000) / 10)).astype(np.float32)


def test_seeding_is_by_all_of_its_numbers_and_leaves_no_trace():
    def draw(*entropy):
        with seeded(*entropy):
            return random.random(), np.random.rand(), torch.rand(1).item()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(0, 1, 2), draw(1, 1, 2), draw(0, 2, 2), draw(0, 1, 3)}) == 4
    assert torch.equal(before, torch.get_rng_state())


def test_all_off_changes_nothing(wave):
    augmenter = AudioAugmenter(Augmentation(**NOTHING), 16000)
    np.testing.assert_array_equal(augmenter.waveform(wave), wave)
    features = torch.randn(50, 80)
    torch.testing.assert_close(augmenter.features(features), features)
    frames = torch.randint(0, 255, (3, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(VideoAugmenter(Augmentation(**NOTHING))(frames), frames)


@pytest.mark.parametrize(
    ("strength", "changed"),
    [
        ({"gain_db": 6}, "level"),
        ({"stretch": 0.2}, "length"),
        ({"resample": 0.2}, "length"),
        ({"pitch_semitones": 2}, "samples"),
        ({"noise_probability": 1.0}, "samples"),
        ({"equalizer_db": 10}, "samples"),
        ({"shift_fraction": 0.2}, "samples"),
    ],
)
def test_each_strength_does_its_work(wave, strength, changed):
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "audio_probability": 1.0, **strength}), 16000)
    with seeded(1):
        out = augmenter.waveform(wave)
    measure = {"level": lambda x: float(np.abs(x).max()), "length": len, "samples": lambda x: float(np.sum(x**3))}
    assert measure[changed](out) != measure[changed](wave)
    with seeded(1):
        np.testing.assert_array_equal(out, augmenter.waveform(wave))


def test_a_turned_clip_is_turned_alike_in_all_frames():
    frames = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    frames[..., 14:18, :] = 255
    augmenter = VideoAugmenter(Augmentation(**{**NOTHING, "rotation_degrees": 30}))
    angles = set()
    for seed in range(8):
        with seeded(seed):
            out = augmenter(frames)
        assert all(torch.equal(frame, out[0]) for frame in out)
        ends = [column.float().argmax(0).max().item() for column in (out[0, 0, :, 4:6], out[0, 0, :, 26:28])]
        angles.add(np.sign(ends[0] - ends[1]))
    assert {-1, 1} <= angles


def test_what_is_off_draws_no_number():
    frames = torch.randint(0, 255, (2, 3, 20, 24), dtype=torch.uint8)
    with seeded(0):
        before = torch.get_rng_state()
        VideoAugmenter(Augmentation(**NOTHING))(frames)
        assert torch.equal(torch.get_rng_state(), before)


def test_erasing_covers_one_box_of_all_frames():
    frames = torch.full((3, 3, 40, 40), 200, dtype=torch.uint8)
    augmenter = VideoAugmenter(Augmentation(**{**NOTHING, "erase_probability": 1.0}))
    with seeded(3):
        out = augmenter(frames)
    erased = (out[0, 0] == 128).nonzero()
    (top, left), (bottom, right) = erased.amin(0).tolist(), erased.amax(0).tolist()
    assert len(erased) == (bottom - top + 1) * (right - left + 1)
    assert 0.01 < len(erased) / 1600 < 0.25
    assert all(torch.equal(frame, out[0]) for frame in out)
    assert (frames == 200).all()


def test_a_shift_does_not_wrap_around():
    wave = np.zeros(16000, np.float32)
    wave[-100:] = 1
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "audio_probability": 1.0, "shift_fraction": 0.3}), 16000)
    for seed in range(20):
        with seeded(seed):
            assert np.abs(augmenter.waveform(wave)[:8000]).max() == 0


def test_spec_augment_fills_with_the_mean():
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "frequency_masks": 1, "frequency_mask_bins": 20}), 16000)
    features = torch.randn(60, 80)
    with seeded(3):
        masked = augmenter.features(features)
    bins = (masked != features).any(dim=0)
    assert 0 < bins.sum() < 20
    torch.testing.assert_close(masked[:, bins], torch.full_like(masked[:, bins], features.mean().item()))


def test_masks_are_those_of_torchaudio():
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "frequency_masks": 2, "time_masks": 2}), 16000)
    features = torch.randn(60, 80)
    for seed in range(10):
        with seeded(seed):
            expected = features.T[None]
            for masking in (torchaudio.transforms.FrequencyMasking(12), torchaudio.transforms.TimeMasking(6)):
                for _ in range(2):
                    expected = masking(expected, float(features.mean()))
        with seeded(seed):
            assert torch.equal(augmenter.features(features), expected[0].T)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_an_equaliser_changes_bands_within_bounds_at_any_rate(rate):
    """Filters of bands above half the rate would grow without end."""
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "audio_probability": 1.0, "equalizer_db": 12}), rate)
    noise = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    gains = set()
    for seed in range(30):
        with seeded(seed):
            out = augmenter.waveform(noise)
        change = 20 * np.log10(np.abs(np.fft.rfft(out)) / np.abs(np.fft.rfft(noise)))
        assert len(out) == len(noise)
        assert np.abs(change[::100]).max() < 13
        gains.add(round(change[rate // 4]))
    assert len(gains) > 5


def test_silence_lies_around_the_clip(wave):
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "audio_probability": 1.0, "silence_seconds": 0.5}), 16000)
    befores = set()
    for seed in range(5):
        with seeded(seed):
            out = augmenter.waveform(wave)
        assert len(wave) <= len(out) <= len(wave) + 16000
        before = int(np.argmax(out == wave[1])) - 1
        np.testing.assert_array_equal(out[before : before + len(wave)], wave)
        assert not out[:before].any()
        assert not out[before + len(wave) :].any()
        befores.add(before)
    assert len(befores) > 1


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_another_vocal_tract_moves_formants(factor):
    extractor = ParakeetFeatureExtractor(sampling_rate=16000)
    seconds = torch.arange(16000) / 16000

    def tone(hertz):
        return extractor._torch_extract_fbank_features(torch.sin(2 * torch.pi * hertz * seconds)[None])[0][20:80]

    moved = warped(tone(1500.0), factor, slaney_hertz(80, 16000)).mean(dim=0)
    assert abs(int(moved.argmax()) - int(tone(1500.0 * factor).mean(dim=0).argmax())) <= 1


def test_the_vocal_tract_is_another_each_time_and_the_same_for_the_same_seed():
    augmenter = AudioAugmenter(Augmentation(**{**NOTHING, "vocal_tract": 0.2}), 16000)
    features = torch.randn(30, 80)

    def drawn(seed):
        with seeded(seed):
            return augmenter.features(features)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert drawn(1).shape == features.shape


def test_every_frame_of_a_clip_is_changed_alike():
    frames = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8).repeat(5, 1, 1, 1)
    sizes = set()
    for seed in range(5):
        with seeded(seed):
            out = VideoAugmenter(Augmentation())(frames)
        assert all(torch.equal(frame, out[0]) for frame in out)
        sizes.add(tuple(out.shape[-2:]))
    assert len(sizes) > 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gain_db", -1, "must not be negative, got -1"),
        ("gain_db", "x", "must be a number, got 'x'"),
        ("color", None, "must be a number, got None"),
        ("crop_fraction", 2, "must be at most 0.9, got 2"),
        ("stretch", float("nan"), "must not be negative, got nan"),
        ("flip_probability", 1.5, "must be at most 1, got 1.5"),
        ("frequency_masks", 1.5, "must be a whole number, got 1.5"),
        ("noise_snr_db", [1, 2, 3], "must be two numbers"),
        ("noise_snr_db", [40, 15], "must be a smallest and a largest number"),
    ],
)
def test_strengths_that_cannot_be_are_refused(field, value, message):
    with pytest.raises(RecipeError, match=f"augmentation {field} {message}"):
        Augmentation(**{field: value})


@pytest.mark.parametrize("system", ["csr", "multimodal_fer", "speech_to_text"])
def test_strengths_are_checked_before_the_data_is_read(system):
    field = "crop_fraction" if system != "speech_to_text" else "stretch"
    words = ["--task", system, "--dataset", "none.csv", "--use_cpu", "true", "--augmentation"]
    with pytest.raises(RecipeError, match=f"augmentation {field} must be at most 0.9"):
        parse_task([*words, f'{{"{field}": 2}}'])


def test_the_clock_is_seen_by_workers():
    clock = EpochClock()

    class Epochs(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return clock.epoch

    loader = torch.utils.data.DataLoader(Epochs(), num_workers=1, persistent_workers=True)
    seen = []
    for clock.epoch in (0, 7):
        seen += [int(value) for value in loader]
    assert seen == [0, 0, 7, 7]
