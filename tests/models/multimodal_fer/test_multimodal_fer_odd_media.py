"""Media as phones, browsers and editors write it: mirrored, trimmed, late, with a cover, changing on the way."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from media import grey_frames, talking_clip, tone, write_clip

from hf_fer.models.multimodal_fer.decoding_multimodal_fer import (
    frame_times,
    load_audio,
    load_video,
    media_tracks,
    read_timeline,
)
from hf_fer.models.multimodal_fer.sound_multimodal_fer import SoundOnClock


def corner_frame() -> np.ndarray:
    """White in the upper left quarter."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32] = 255
    return frame


def set_display_matrix(path, a: int, b: int, c: int, d: int):
    """Write the display matrix of an mp4's track header."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def loud_seconds(samples: np.ndarray, rate: int = 16000) -> tuple[float, float]:
    """First and last moment of sound."""
    loud = np.flatnonzero(np.abs(samples) > 0.1)
    return loud[0] / rate, loud[-1] / rate


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).transpose(1, 0, 2)),
    ],
)
def test_display_matrices_turn_and_mirror(tmp_path, matrix, expected):
    path = set_display_matrix(write_clip(tmp_path / "p.mp4", frames=[corner_frame()] * 5), *matrix)
    shown, wanted = load_video(path, 1)[0], expected(corner_frame())
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 10


def copy_trimmed(source, target, seconds: float):
    """Copy packets with their times moved back, as `ffmpeg -ss -c copy` does: mp4 hides what comes before 0."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.pts is not None:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def test_frames_that_an_edit_list_hides_are_not_used(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", frames=grey_frames(50), audio=tone(2.0, 16000))
    path = copy_trimmed(whole, tmp_path / "trim.mp4", 1.0)
    times = frame_times(path)
    assert times[0] == pytest.approx(0, abs=0.05)
    assert times[-1] == pytest.approx(0.96, abs=0.1)
    assert load_video(path, 4).mean(axis=(1, 2, 3)) == pytest.approx([133, 158, 183, 208], abs=9)


def write_sound_at(path, pieces: list[tuple[float, np.ndarray]], frames: int = 100, rate: int = 48000):
    """Four seconds of pictures in Matroska with pieces of sound that begin at given seconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for index, picture in enumerate(grey_frames(frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start, samples in pieces:
            for begin in range(0, len(samples), 1024):
                pcm = (samples[begin : begin + 1024] * 32767).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = round(start * rate) + begin
                container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def test_late_sound_and_holes_stand_where_their_timestamps_say(tmp_path):
    second = tone(0.5, 48000)[0]
    path = write_sound_at(tmp_path / "late.mkv", [(1.48, second), (3.0, second)])
    samples = load_audio(path, 16000)
    assert len(samples) / 16000 == pytest.approx(4, abs=0.05)
    assert loud_seconds(samples[: 2 * 16000 + 8000]) == pytest.approx((1.48, 1.98), abs=0.01)
    assert loud_seconds(samples[2 * 16000 + 8000 :]) == pytest.approx((0.5, 1.0), abs=0.01)


def test_pictures_and_sound_cover_the_same_time(tmp_path):
    """Two seconds of pictures under four of sound: the last half of the frames is the last picture."""
    path = write_sound_at(tmp_path / "long.mkv", [(0.0, tone(4.0, 48000)[0])], frames=50)
    assert read_timeline(path).stop == pytest.approx(4, abs=0.05)
    brightness = load_video(path, 8).mean(axis=(1, 2, 3))
    assert brightness == pytest.approx([45, 95, 145, 195, 220, 220, 220, 220], abs=9)


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(corner_frame(), format="rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        container.mux([*cover.encode(frame), *cover.encode(None)])
        pcm = av.AudioFrame.from_ndarray((tone(1.0, 16000) * 32767).astype(np.int16), format="s16", layout="mono")
        pcm.sample_rate, pcm.pts = 16000, 0
        container.mux([*sound.encode(pcm), *sound.encode(None)])
    assert media_tracks(path) == ("audio",)
    assert media_tracks(talking_clip(tmp_path / "clip.mp4")) == ("audio", "video")


def test_a_size_that_changes_on_the_way(tmp_path):
    """Two VP8 streams of other shapes in one WebM, as a phone that is turned during a call sends them."""
    packets = []
    for height, width in ((48, 64), (64, 48)):
        path = write_vp8(tmp_path / f"{height}.webm", height, width)
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(video=0) if packet.size])
    path = tmp_path / "both.webm"
    with av.open(str(tmp_path / "48.webm")) as first, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(first.streams.video[0])
        for index, data in enumerate([*packets[0], *packets[1]]):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = 40 * index
            packet.is_keyframe = index in (0, len(packets[0]))
            target.mux(packet)
    frames = load_video(path, 4)
    assert frames.shape == (4, 48, 64, 3)
    assert frames[0].mean() == pytest.approx(200, abs=5)
    # Fitted by its height, with black at both sides.
    assert frames[3][:, 24:40].mean() == pytest.approx(200, abs=5)
    assert frames[3][:, :10].max() < 30


def write_vp8(path, height: int, width: int):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for _ in range(10):
            picture = np.full((height, width, 3), 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("channels", [1, 2, 6, 7, 8, 16])
def test_channels_past_stereo_are_averaged(tmp_path, channels):
    import soundfile

    wave = 0.25 * np.sin(2 * np.pi * 440 * np.arange(800) / 8000)
    soundfile.write(tmp_path / "c.wav", np.repeat(wave[:, None], channels, axis=1), 8000, subtype="PCM_16")
    samples = load_audio(tmp_path / "c.wav", 16000)
    assert len(samples) == 1600
    assert np.abs(samples).max() == pytest.approx(0.25, abs=0.01)


def test_a_rate_and_layout_that_change_on_the_way():
    track = SoundOnClock(16000, 0.0)
    for start, rate, layout in ((0.0, 48000, "stereo"), (0.5, 22050, "mono")):
        wave = (tone(0.5, rate)[0] * 32767).astype(np.int16)
        packed = np.repeat(wave, 2 if layout == "stereo" else 1)[None]
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate)
        track.add(frame)
    track.flush()
    samples = track.samples(stop=0.0)
    assert len(samples) == pytest.approx(16000, abs=4)
    assert np.abs(samples[:7900]).max() == pytest.approx(0.5, abs=0.02)
    assert np.abs(samples[8100:]).max() == pytest.approx(0.5, abs=0.02)
