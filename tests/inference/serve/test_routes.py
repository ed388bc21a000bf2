"""Each route's answer is the pipeline's, in its typed form."""

import asyncio
import json

import httpx
import openai
import pytest
from media import talking_clip
from models.csr.test_csr_pipeline import CONCEPTS
from transformers import pipeline

from hf_fer.inference.serve.batching import Batcher


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return talking_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def post(server, route: str, path, **fields) -> dict:
    answer = server.client.post(route, files={"file": path.read_bytes()}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def same_scores(found: list[dict], expected: list[dict]) -> None:
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_health_readiness_and_description(server):
    assert server.client.get("/healthz").json() == {"status": "ok"}
    assert server.client.get("/readyz").json() == {"status": "ready"}
    assert {model["id"] for model in server.client.get("/v1/models").json()["data"]} == {
        *("multimodal_fer", "csr", "language_id", "speech_to_text")
    }
    described = server.client.get("/openapi.json").json()["paths"]
    answers = described["/v1/emotion"]["post"]["responses"]
    assert {"200", "413", "422", "429"} <= answers.keys()
    assert answers["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/EmotionAnswer"}
    assert server.client.get("/docs").status_code == 200


def test_emotion_of_a_clip_is_the_pipelines(server, systems, clip):
    pipe = pipeline("audio-visual-emotion-recognition", model=str(systems["multimodal_fer"].model))
    found = post(server, "/v1/emotion", clip, by_modality="true")
    same_scores(found["labels"], pipe(str(clip)))
    for name in ("audio", "video"):
        same_scores(found["modalities"][name], pipe({name: str(clip)}))
    sure = post(server, "/v1/emotion", clip, abstain="1.0", top_k="2")
    assert sure["abstained"]
    same_scores(sure["labels"], pipe(str(clip), top_k=2))
    sound = systems["multimodal_fer"].files[1]
    same_scores(post(server, "/v1/emotion", sound)["labels"], pipe(str(sound)))


def test_languages_of_texts_are_the_pipelines(server, systems):
    pipe = pipeline("text-language-identification", model=str(systems["language_id"].model))
    texts = [path.read_text(encoding="utf-8") for path in systems["language_id"].files]
    found = server.client.post("/v1/language", json={"text": texts, "top_k": 3, "spans": True}).json()["results"]
    for one, expected in zip(found, pipe(texts, top_k=3, spans=True), strict=True):
        same_scores(one["languages"], expected["languages"])
        assert [(span["start"], span["end"]) for span in one["spans"]] == [
            (span["start"], span["end"]) for span in expected["spans"]
        ]
    single = server.client.post("/v1/language", json={"text": texts[0]}).json()["results"]
    same_scores(single[0]["languages"], pipe(texts[0]))


def test_concepts_of_an_image_are_the_pipelines_and_a_rejected_one_changes_the_diagnosis(server, systems):
    pipe = pipeline("concept-image-classification", model=str(systems["csr"].model))
    image = systems["csr"].files[0]
    expected = pipe(str(image))
    found = post(server, "/v1/concepts", image, maps="true")
    same_scores(found["labels"], expected["labels"])
    assert [one["concept"] for one in found["concepts"]] == [one["concept"] for one in expected["concepts"]]
    assert found["concepts"][0]["map"][0] == pytest.approx(expected["concepts"][0]["map"][0].tolist(), abs=1e-5)
    shares = sum(one["share"] for one in found["concepts"])
    assert shares + found["bias"] == pytest.approx(found["logit"], abs=1e-4)
    corrected = {"reject": CONCEPTS[:1], "positive_boxes": ["0,0,20,20"]}
    changed = post(server, "/v1/concepts", image, **corrected)
    same_scores(changed["labels"], pipe(str(image), reject=CONCEPTS[:1], positive_boxes=[[0, 0, 20, 20]])["labels"])
    assert changed["labels"] != found["labels"]


def test_openais_client_gets_transcripts_in_every_form(server, systems):
    path = systems["speech_to_text"].files[0]
    expected = pipeline("timed-speech-recognition", model=str(systems["speech_to_text"].model))(str(path))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def transcribe(**fields):
        with path.open("rb") as file:
            return client.audio.transcriptions.create(file=file, model="speech_to_text", **fields)

    assert transcribe().text == expected["text"]
    assert transcribe(response_format="text") == f"{expected['text']}\n"
    verbose = transcribe(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.text == expected["text"]
    assert verbose.duration == pytest.approx(0.9)
    assert [(word.word, word.start, word.end) for word in verbose.words] == [
        (word["word"], word["start"], word["end"]) for word in expected["words"]
    ]
    assert " ".join(segment.text for segment in verbose.segments) == expected["text"]
    assert transcribe(response_format="vtt").startswith("WEBVTT\n\n1\n00:00:0")
    assert transcribe(response_format="srt").startswith("1\n00:00:0")
    with pytest.raises(openai.UnprocessableEntityError, match="prompt"):
        transcribe(prompt="names")
    with pytest.raises(openai.NotFoundError, match="speech_to_text"), path.open("rb") as file:
        client.audio.transcriptions.create(file=file, model="whisper-1")


def test_fifty_clients_at_once_get_their_own_answers(server, systems):
    texts = [path.read_text(encoding="utf-8") for path in systems["language_id"].files]
    images, sounds = systems["csr"].files, systems["speech_to_text"].files
    kinds = [
        *(("/v1/language", {"json": {"text": text}}) for text in texts),
        *(("/v1/concepts", {"files": {"file": image.read_bytes()}}) for image in images),
        *(("/v1/audio/transcriptions", {"files": {"file": sound.read_bytes()}}) for sound in sounds),
        *(("/v1/emotion", {"files": {"file": sound.read_bytes()}}) for sound in sounds),
    ]
    expected = [server.client.post(route, **given).json() for route, given in kinds]

    async def client(number: int, http: httpx.AsyncClient) -> None:
        for turn in range(2):
            chosen = (7 * number + 3 * turn) % len(kinds)
            route, given = kinds[chosen]
            answer = await http.post(route, **given)
            assert answer.status_code == 200, answer.text
            found, known = answer.json(), expected[chosen]
            if "text" in known:
                assert found == known
            else:
                scores = [one.get("labels") or one["languages"] for one in (*found.get("results", ()), found)[:1]]
                others = [one.get("labels") or one["languages"] for one in (*known.get("results", ()), known)[:1]]
                same_scores(scores[0], others[0])

    async def all_clients() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits()) as http:
            await asyncio.gather(*(client(number, http) for number in range(50)))

    asyncio.run(all_clients())
    assert len({json.dumps(one) for one in expected}) > len(kinds) / 2


def test_requests_that_arrive_together_share_a_batch_if_their_options_are_the_same():
    batches = []

    def answer(values, options):
        batches.append((values, options))
        if "bad" in values:
            raise ValueError("no")
        return [value * options["times"] for value in values]

    async def ask_all():
        batcher = Batcher(answer, size=4)
        asked = [(value, times) for times in (2, 3) for value in ("a", "b", "bad", "c", "d")]
        given = (batcher.ask(value, {"times": times}) for value, times in asked)
        found = await asyncio.gather(*given, return_exceptions=True)
        batcher.close()
        return asked, found

    asked, found = asyncio.run(ask_all())
    for (value, times), one in zip(asked, found, strict=True):
        assert str(one) == ("no" if value == "bad" else value * times)
    assert batches[0] == (["a", "b", "bad", "c"], {"times": 2})
    assert all(len(values) <= 4 for values, _ in batches)
