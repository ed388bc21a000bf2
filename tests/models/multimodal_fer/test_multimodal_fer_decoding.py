"""Decoding of whole, odd and broken files, and of real clips."""

import numpy as np
import pytest
from media import grey_frames, rotate_in_header, talking_clip, tone, truncate, write_clip

from hf_fer.models.multimodal_fer.decoding_multimodal_fer import (
    UnusableMediaError,
    evenly_spaced,
    frame_times,
    load_audio,
    load_video,
)


def brightness(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).mean(axis=1)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4"])
def test_any_rate_becomes_16_khz(tmp_path, rate, suffix):
    samples = load_audio(write_clip(tmp_path / f"a{suffix}", audio=tone(1.0, rate), rate=rate), 16000)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16000) < 2200  # AAC pads to whole frames at either end
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(spectrum.argmax() * 16000 / len(samples) - 220) < 3


def test_stereo_is_averaged_not_taken_from_one_side(tmp_path):
    stereo = load_audio(write_clip(tmp_path / "s.wav", audio=tone(0.5, 16000, channels=2)), 16000)
    mono = load_audio(write_clip(tmp_path / "m.wav", audio=tone(0.5, 16000)), 16000)
    assert np.abs(stereo).max() == pytest.approx(np.abs(mono).max() / 2, rel=0.01)


def test_frames_are_spread_over_the_clip(tmp_path):
    path = write_clip(tmp_path / "v.mp4", frames=grey_frames(50))
    frames = load_video(path, 5)
    assert frames.shape == (5, 48, 64, 3)
    assert frames.dtype == np.uint8
    # Grey rises from 20 to 220: the centres of five equal parts are at 10%, 30%, ... of it.
    np.testing.assert_allclose(brightness(frames), [40, 80, 120, 160, 200], atol=6)


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    times = [index * 0.02 for index in range(25)] + [0.5 + index * 0.1 for index in range(25)]
    path = write_clip(tmp_path / "v.mp4", frames=grey_frames(50), times=times)
    shown = brightness(load_video(path, 6))
    wanted = (np.arange(6) + 0.5) / 6 * (times[-1] + 0.06)
    by_time = np.interp(wanted, times, np.linspace(20, 220, 50))
    np.testing.assert_allclose(shown, by_time, atol=8)
    by_index = brightness(np.stack(grey_frames(50)))[(np.arange(6) + 0.5).astype(int) * 50 // 6]
    assert np.abs(shown - by_index).max() > 20


def test_portrait_clip_comes_out_upright(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32] = 200
    path = rotate_in_header(write_clip(tmp_path / "p.mp4", frames=[frame] * 10))
    upright = load_video(path, 2)[0]
    assert upright.shape == (64, 48, 3)
    # A quarter turn clockwise brings what was left to the top.
    assert upright[:24].mean() > 150
    assert upright[40:].mean() < 50


def test_fewer_frames_than_asked_are_repeated_in_order(tmp_path):
    frames = load_video(write_clip(tmp_path / "v.mp4", frames=grey_frames(3)), 8)
    assert len(frames) == 8
    assert (np.diff(brightness(frames)) >= -1).all()
    assert len({round(value / 20) for value in brightness(frames)}) == 3


def test_one_frame(tmp_path):
    assert len(load_video(write_clip(tmp_path / "v.mp4", frames=grey_frames(2)[:1]), 4)) == 4


def test_evenly_spaced_stays_in_range():
    for count in (1, 2, 7, 100):
        chosen = evenly_spaced(np.arange(count) / 25, 16)
        assert chosen.min() >= 0
        assert chosen.max() < count


def broken(kind: str, folder):
    if kind == "missing":
        return folder / "nowhere.mp4"
    path = talking_clip(folder / "clip.mp4")
    if kind == "zero length":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        truncate(path, 0.6)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("missing", "not found"), ("zero length", "empty"), ("text", "not readable"), ("truncated", "not readable")],
)
@pytest.mark.parametrize("load", [lambda path: load_audio(path, 16000), lambda path: load_video(path, 4)])
def test_broken_files_are_named_with_the_reason(tmp_path, kind, reason, load):
    path = broken(kind, tmp_path)
    with pytest.raises(UnusableMediaError, match=reason) as caught:
        load(path)
    assert caught.value.path == str(path)


def test_truncated_after_the_index_is_found(tmp_path):
    """With the index in front, the file opens and only its last frames are missing."""
    frames = [np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8) for index in range(40)]
    path = write_clip(tmp_path / "v.mp4", frames=frames, options={"movflags": "faststart"})
    truncate(path, 0.4)
    with pytest.raises(UnusableMediaError, match=r"ends early|does not decode"):
        load_video(path, 8)


def test_missing_tracks(tmp_path):
    silent = write_clip(tmp_path / "v.mp4", frames=grey_frames(5))
    blind = write_clip(tmp_path / "a.wav", audio=tone(0.2, 16000))
    with pytest.raises(UnusableMediaError, match="no audio track"):
        load_audio(silent, 16000)
    with pytest.raises(UnusableMediaError, match="no video track"):
        load_video(blind, 4)


def test_header_without_samples(tmp_path):
    path = write_clip(tmp_path / "a.wav", audio=tone(0.2, 16000))
    path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(UnusableMediaError, match=r"no samples|not readable"):
        load_audio(path, 16000)


def test_nan_samples_are_refused(tmp_path):
    import soundfile

    samples = tone(0.2, 16000)[0]
    samples[100] = np.nan
    soundfile.write(tmp_path / "n.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(UnusableMediaError, match="not finite"):
        load_audio(tmp_path / "n.wav", 16000)


def test_real_clips_decode(real_data):
    clips = sorted((real_data / "grid_s1" / "video").glob("*.mpg"))
    assert len(clips) == 60
    for clip in clips[:10]:
        assert load_video(clip, 16).shape == (16, 288, 360, 3)
        assert 2.9 * 16000 < len(load_audio(clip, 16000)) < 3.1 * 16000
        assert len(frame_times(clip)) == 75
