"""The emotion over time of long recordings over HTTP: the pipeline's answer, its limits, and flat memory."""

import asyncio
import dataclasses
import threading
import time

import httpx
import numpy as np
import psutil
import pytest
from inference.serve.conftest import LIMITS, running
from inference.serve.test_routes import same_scores
from media import grey_frames, tone, truncate, write_clip
from transformers import pipeline

from hf_fer.data.captions import srt
from hf_fer.inference.serve.command import find_all
from hf_fer.inference.serve.hosting import load_hosts


def recording(path, seconds: int, sound: bool = True):
    """A video whose tone and pictures change every three seconds."""
    draw = np.random.default_rng(0)
    parts = [tone(1, 16000, frequency=float(150 + 700 * (second // 3 % 3))) for second in range(seconds)]
    frames = [frame for second in range(seconds) for frame in grey_frames(10)[:: 1 if second // 3 % 2 else -1]]
    noise = [draw.integers(0, 256, frames[0].shape, dtype=np.uint8) for _ in range(5)]
    frames = [noise[index % 5] if index // 30 % 3 == 2 else frame for index, frame in enumerate(frames)]
    return write_clip(path, frames=frames, fps=10, audio=np.concatenate(parts, axis=1) if sound else None)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Longer than a clip may be."""
    return recording(tmp_path_factory.mktemp("long") / "long.mp4", 40)


@pytest.fixture(scope="module")
def pipe(systems):
    return pipeline("audio-visual-emotion-recognition", model=str(systems["multimodal_fer"].model))


def post(server, path, **fields) -> httpx.Response:
    return server.client.post("/v1/emotion", files={"file": path.read_bytes()}, data={"timeline": "true", **fields})


def same_segments(found: list[dict], expected: list[dict]) -> None:
    same_scores(found, expected)
    for name in ("start", "end"):
        assert [one[name] for one in found] == pytest.approx([one[name] for one in expected])


def test_a_long_videos_timeline_is_the_pipelines(server, pipe, long_video):
    refused = server.client.post("/v1/emotion", files={"file": long_video.read_bytes()})
    assert refused.status_code == 422
    assert "over max_seconds = 30: cut it, or ask /v1/emotion with timeline=true" in refused.text
    found = post(server, long_video, switch_penalty="0", top_k="3")
    assert found.status_code == 200, found.text
    expected = pipe(str(long_video), timeline=True, switch_penalty=0, top_k=3)
    assert len(expected["segments"]) > 3
    same_segments(found.json()["timeline"], expected["segments"])
    same_scores(found.json()["labels"], expected["labels"])


def test_settings_abstention_and_subtitles(server, pipe, long_video):
    settings = {"window_seconds": 4.0, "stride_seconds": 2.0, "switch_penalty": 0.0}
    expected = pipe(str(long_video), timeline=True, abstain=0.2, **settings)
    found = post(server, long_video, abstain="0.2", **{name: str(value) for name, value in settings.items()}).json()
    same_segments(found["timeline"], expected["segments"])
    assert found["abstained"]
    assert {one["label"] for one in found["timeline"]} == {"abstain"}
    written = post(server, long_video, response_format="srt", switch_penalty="0")
    assert written.headers["content-type"].startswith("application/x-subrip")
    assert written.text == srt(pipe(str(long_video), timeline=True, switch_penalty=0)["segments"])
    assert post(server, long_video, response_format="vtt").text.startswith("WEBVTT\n\n1\n00:00:00.000 --> ")


def test_sound_alone_and_pictures_alone(server, pipe, systems, tmp_path):
    silent = recording(tmp_path / "silent.mp4", 5, sound=False)
    for path in (silent, systems["multimodal_fer"].files[0]):
        found = post(server, path, switch_penalty="0").json()
        same_segments(found["timeline"], pipe(str(path), timeline=True, switch_penalty=0)["segments"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"timeline": "false", "response_format": "srt"}, "response_format=srt: goes with timeline=true"),
        ({"timeline": "false", "window_seconds": "2"}, "window_seconds: goes with timeline=true"),
        ({"by_modality": "true"}, "go with clips"),
        ({"stride_seconds": "3"}, "stride_seconds must be"),
        ({"stride_seconds": "0.0001"}, "stride_seconds"),
        ({"window_seconds": "1e9"}, "window_seconds must be"),
        ({"response_format": "ass"}, "response_format"),
    ],
)
def test_fields_that_do_not_go_together(server, long_video, fields, words):
    answer = post(server, long_video, **fields)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]["message"]


def test_recordings_that_are_damaged_or_too_long(server, long_video, tmp_path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(long_video.read_bytes())
    answer = post(server, truncate(damaged, 0.5))
    assert answer.status_code == 422, answer.text
    assert "/tmp" not in answer.text
    endless = write_clip(tmp_path / "endless.flac", audio=np.zeros((1, 70 * 8000), np.float32), rate=8000)
    answer = post(server, endless)
    assert answer.status_code == 422, answer.text
    assert "70 s, over max_timeline_seconds = 60" in answer.text
    assert server.client.get("/readyz").status_code == 200


def test_a_client_that_goes_ends_the_reading_and_frees_its_place(systems, long_video):
    hosts = load_hosts(find_all([str(systems["multimodal_fer"].model)]), LIMITS)
    hosted = hosts[0].models["model"]
    hosted.decoding.streams = threading.Semaphore(1)
    with running(hosts) as server:
        form = {"files": {"file": long_video.read_bytes()}, "data": {"timeline": "true", "stride_seconds": "0.1"}}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/emotion", **form, timeout=1.5)
        statuses = set()
        for _ in range(100):
            answer = post(server, long_video, window_seconds="20", stride_seconds="20")
            statuses.add(answer.status_code)
            if answer.status_code == 200:
                break
            assert answer.headers["retry-after"] == "60"
            assert "try again" in answer.text
            time.sleep(0.1)
        assert 200 in statuses
        assert statuses <= {200, 429}

        with hosted.decoding.streams:  # as if another recording were being read
            assert post(server, long_video).status_code == 429


def test_an_answer_that_takes_too_long(systems, long_video):
    limits = dataclasses.replace(LIMITS, answer_seconds=0.5)
    with running(load_hosts(find_all([str(systems["multimodal_fer"].model)]), limits), limits) as server:
        late = post(server, long_video, stride_seconds="0.1")
        assert late.status_code == 503
        assert "shorter" in late.text


def test_memory_does_not_grow_with_the_recording(server, pipe, tmp_path):
    """Five times the length, with windows whose pictures take 500 MiB together, takes hardly more memory."""
    peaks = []
    process = psutil.Process()
    for seconds in (10, 50):
        path = write_clip(tmp_path / f"{seconds}.mp4", frames=grey_frames(seconds * 2, height=480, width=640), fps=2)
        found, peak = asyncio.run(watched(server, path, process))
        assert found["timeline"][-1]["end"] == pytest.approx(seconds, abs=0.6)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 60 * 2**20


async def watched(server, path, process) -> tuple[dict, int]:
    """The answer, and the server's largest resident memory until then."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        form = {"files": {"file": path.read_bytes()}, "data": {"timeline": "true"}}
        request = asyncio.create_task(client.post("/v1/emotion", **form))
        peak = 0
        while not request.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)
        return request.result().json(), peak
