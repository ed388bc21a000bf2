"""Files that stand for more than they weigh, and long recordings: bounded length, pixels and memory."""

import tracemalloc
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from media import grey_frames, talking_clip, tone, write_clip
from transformers import SiglipImageProcessor, pipeline, set_seed

from hf_fer.data import loading
from hf_fer.models.multimodal_fer import (
    MultimodalFerConfig,
    MultimodalFerFeatureExtractor,
    MultimodalFerForEmotionClassification,
    MultimodalFerProcessor,
    arrays_multimodal_fer,
)
from hf_fer.models.multimodal_fer.decoding_multimodal_fer import (
    MediaLimits,
    UnusableMediaError,
    load_audio,
    load_video,
    load_visual_features,
    read_timeline,
)
from hf_fer.models.multimodal_fer.train import clips as task_clips
from hf_fer.models.multimodal_fer.train import preprocessing
from hf_fer.models.multimodal_fer.train.arguments import MultimodalFerDataArguments
from hf_fer.models.multimodal_fer.train.preprocessing import new_processor
from hf_fer.models.multimodal_fer.windows_multimodal_fer import picture_windows, sound_windows, window_times
from hf_fer.task.find import build_task
from hf_fer.task.settings import skipped_file

LIMIT = 20 * 2**20
"""Bytes that refusing a file may take."""


def processor(**settings) -> MultimodalFerProcessor:
    images = SiglipImageProcessor(size={"height": 64, "width": 64})
    return MultimodalFerProcessor(MultimodalFerFeatureExtractor(), images, num_frames=4, **settings)


def peak_bytes(action) -> int:
    """Most bytes that NumPy and Python held at once meanwhile."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path, load=lambda path: load_audio(path, 16000), match="max_seconds = 300"):
    def attempt():
        with pytest.raises(UnusableMediaError, match=match) as caught:
            load(path)
        assert str(path) in str(caught.value)

    return peak_bytes(attempt)


def slow_wav(path, seconds: float, rate: int):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(2 * int(seconds * rate)))
    return path


def frames_with_pts(path, times: list[float], size: tuple[int, int] = (64, 48), codec: str = "libx264"):
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height = size
        video.pix_fmt, video.time_base = "yuv420p", Fraction(1, 1000)
        video.codec_context.time_base = Fraction(1, 1000)
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        for time in times:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("rate", [1, 100])
def test_a_small_file_that_is_ten_hours_of_sound(tmp_path, rate):
    path = slow_wav(tmp_path / "long.wav", 36000, rate)
    assert refused(path) < LIMIT
    assert refused(path, read_timeline) < LIMIT


def test_ten_hours_of_flac_in_packets_that_are_seconds_long(tmp_path):
    path = tmp_path / "long.flac"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("flac", rate=8000, layout="mono")
        for index in range(400):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, index * 8000
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert refused(path) < 2 * 300 * 16000 * 4
    assert len(load_audio(path, 16000, MediaLimits(max_seconds=400))) == 400 * 16000


def test_a_hole_of_hours_in_the_sound_is_not_filled(tmp_path):
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 10 * 3600):
            frame = av.AudioFrame.from_ndarray(np.ones((1, 1600), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, start * 16000
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert refused(path) < LIMIT
    whole = window_times(10 * 3600, 10, 10)
    windows = lambda path: list(sound_windows(path, 16000, whole, MediaLimits()))  # noqa: E731
    assert refused(path, windows, match="jump from 0 s to 36000 s") < LIMIT


def test_eight_hours_of_video_by_its_timestamps(tmp_path):
    path = frames_with_pts(tmp_path / "long.mkv", [*range(0, 250, 10), 8 * 3600])
    assert refused(path, lambda path: load_video(path, 4)) < LIMIT


def test_a_video_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    path = frames_with_pts(tmp_path / "large.mkv", [0.0], size=(6000, 6000))
    match = "6000 x 6000 pixels, over max_pixels = 33554432"
    assert refused(path, lambda path: load_video(path, 4), match=match) < LIMIT
    small = talking_clip(tmp_path / "small.mp4")
    with pytest.raises(UnusableMediaError, match="64 x 48 pixels, over max_pixels = 3000"):
        processor(max_pixels=3000).load_video(small)


def test_pixels_that_grow_on_the_way(tmp_path):
    packets = []
    for size in ((64, 48), (128, 96)):
        part = frames_with_pts(tmp_path / f"{size[0]}.webm", [0.0, 0.04], size, codec="libvpx")
        with av.open(str(part)) as container:
            packets += [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "grows.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, index * 40, index * 40
            packet.time_base = Fraction(1, 1000)
            container.mux(packet)
    assert load_video(path, 4).shape == (4, 48, 64, 3)
    with pytest.raises(UnusableMediaError, match="128 x 96"):
        load_video(path, 4, MediaLimits(max_pixels=64 * 48))


def test_an_array_is_measured_before_it_is_resampled(monkeypatch):
    monkeypatch.setattr(arrays_multimodal_fer, "resample", None)
    with pytest.raises(ValueError, match="it lasts 8000 s or more"):
        processor(max_seconds=300)(audio=np.zeros(8000, np.float32), sampling_rate=1)


def test_arrays_that_last_too_long():
    with pytest.raises(ValueError, match="max_seconds = 2"):
        processor(max_seconds=2)(audio=np.zeros(3 * 8000, np.float32), sampling_rate=8000)
    with pytest.raises(ValueError, match="must be positive"):
        processor(max_seconds=0)


def test_limits_are_saved_and_set_by_the_recipe(tmp_path):
    processor(max_seconds=7, max_pixels=9000).save_pretrained(tmp_path)
    assert MultimodalFerProcessor.from_pretrained(tmp_path).limits == (7, 9000)
    assert new_processor(MultimodalFerDataArguments(max_seconds=8)).limits == (8, 2**25)


def test_a_file_over_the_limit_is_left_out_of_training_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    good = write_clip(tmp_path / "good.wav", audio=tone(1.0, 16000))
    long = slow_wav(tmp_path / "long.wav", 36000, 100)
    items = [(str(good), "audio"), (str(long), "audio")]
    reasons = task_clips.clip_check(processor()).reasons(items)
    assert reasons[0] is None
    assert "max_seconds = 300" in reasons[1]
    assert "max_seconds = 0.5" in task_clips.clip_check(processor(max_seconds=0.5)).reasons(items)[0]
    assert task_clips.clip_check(processor()).settings["decoder"] == preprocessing.DECODER_VERSION

    rows = "".join(f"c{n}.wav,{'ab'[n % 2]}\n" for n in range(12))
    (tmp_path / "clips.csv").write_text("audio,label\n" + rows + "long.wav,a\n", encoding="utf-8")
    for n in range(12):
        write_clip(tmp_path / f"c{n}.wav", audio=tone(0.3, 16000, frequency=200 + n))
    fields = {"dataset": str(tmp_path / "clips.csv"), "modalities": ["audio"], "max_skipped_fraction": 0.5}
    task = build_task({"task": "multimodal_fer", "output_dir": str(tmp_path / "out"), **fields}, "recipe", [])
    task.load_data()
    skipped = skipped_file(task).read()
    assert [(entry["path"], "max_seconds" in entry["reason"]) for entry in skipped] == [(long.name, True)]


def test_features_that_claim_more_than_their_file_has(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((9, 4), np.float32))
    assert load_visual_features(tmp_path / "f.npy").shape == (9, 1, 4)
    with (tmp_path / "f.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 4)}
        np.lib.format.write_array_header_1_0(file, header)
    assert refused(tmp_path / "f.npy", load_visual_features, match="not readable as a .npy") < LIMIT
    (tmp_path / "f.npy").write_bytes(b"\x93NUMPY\x01\x00\x16\x00{'descr': '<f4', (((  \n")
    refused(tmp_path / "f.npy", load_visual_features, match="not readable as a .npy")


def test_windows_cover_a_recording():
    assert window_times(3, 5, 5) == [(0, 3)]
    assert window_times(10, 5, 5) == [(0, 5), (5, 10)]
    assert window_times(12, 5, 4) == [(0, 5), (4, 9), (7, 12)]


def test_windows_are_the_parts_of_the_whole(tmp_path):
    path = write_clip(tmp_path / "c.mp4", frames=grey_frames(250), audio=tone(10.0, 16000))
    windows = window_times(read_timeline(path).stop, 4, 2)
    whole = load_audio(path, 16000)
    for (start, end), part in zip(windows, sound_windows(path, 16000, windows, MediaLimits()), strict=True):
        expected = whole[round(start * 16000) : round(end * 16000)]
        assert len(part) == pytest.approx(4 * 16000, abs=1)
        np.testing.assert_allclose(part[: len(expected)], expected, atol=1e-6)
    for (start, end), part in zip(windows, picture_windows(path, 4, windows, MediaLimits()), strict=True):
        middle = start + (np.arange(4) + 0.5) * (end - start) / 4
        assert part.mean(axis=(1, 2, 3)) == pytest.approx(20 + middle / 10 * 200, abs=9)


class TestPipeline:
    @pytest.fixture(scope="class")
    def classify(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("model")
        set_seed(0)
        model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset("tiny", num_frames=4))
        model.save_pretrained(folder)
        processor(max_seconds=30).save_pretrained(folder)
        return pipeline("audio-visual-emotion-recognition", model=str(folder))

    @pytest.fixture(scope="class")
    def recording(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("long")
        return str(write_clip(folder / "r.mp4", frames=grey_frames(1000), audio=tone(40.0, 16000)))

    def test_a_long_recording_is_refused_whole_and_read_by_windows(self, classify, recording):
        with pytest.raises(UnusableMediaError, match="window_seconds"):
            classify(recording)
        result = classify(recording, window_seconds=10, return_timestamps=True, top_k=3)
        assert [item["start"] for item in result["windows"][:4]] == pytest.approx([0, 10, 20, 30], abs=0.2)
        assert result["windows"][-1]["end"] == pytest.approx(40, abs=0.2)
        assert {"label", "score"} < result["windows"][0].keys()
        assert len(result["labels"]) == 3
        assert classify(recording, window_seconds=10, top_k=3) == result["labels"]
        assert classify([recording], window_seconds=10, top_k=3, batch_size=2) == [result["labels"]]

    def test_a_clip_within_one_window_is_judged_as_a_whole(self, classify, tmp_path):
        clip = str(talking_clip(tmp_path / "c.mp4"))
        whole = classify(clip)
        windowed = classify(clip, window_seconds=5)
        assert [item["label"] for item in windowed] == [item["label"] for item in whole]
        assert [i["score"] for i in windowed] == pytest.approx([i["score"] for i in whole], abs=1e-3)

    def test_the_answer_is_of_the_mean_of_the_windows_logits(self, classify):
        samples = np.concatenate([tone(2.0, 16000)[0], tone(2.0, 16000, frequency=900)[0]])
        result = classify({"audio": samples, "sampling_rate": 16000}, window_seconds=2, return_timestamps=True)
        logits = [
            classify.forward(classify.preprocess({"audio": half, "sampling_rate": 16000}))["logits"]
            for half in (samples[:32000], samples[32000:])
        ]
        mean = (sum(logits) / 2 / classify.model.config.temperature).softmax(dim=-1)[0]
        assert [item["score"] for item in result["labels"]] == pytest.approx(
            sorted(mean.tolist(), reverse=True), abs=1e-5
        )
        assert len(result["windows"]) == 2

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"stride_seconds": 1}, "stride_seconds goes with window_seconds"),
            ({"return_timestamps": True}, "return_timestamps goes with window_seconds"),
            ({"window_seconds": 31}, "at most max_seconds = 30"),
            ({"window_seconds": 0}, "window_seconds must be over 0"),
            ({"window_seconds": 5, "stride_seconds": 6}, "stride_seconds must be"),
        ],
    )
    def test_windows_that_are_refused(self, classify, recording, settings, message):
        with pytest.raises(ValueError, match=message):
            classify(recording, **settings)

    def test_an_array_of_frames_has_no_windows(self, classify):
        with pytest.raises(ValueError, match="no times"):
            classify({"video": np.zeros((4, 48, 64, 3), np.uint8)}, window_seconds=1)
