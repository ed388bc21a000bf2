"""`hf-fer predict --timeline`: segments in every form of output."""

import json

import pytest
from inference.test_predict import run
from PIL import Image

import hf_fer
from hf_fer.inference import plots
from hf_fer.recipe.arguments import RecipeError


def test_emotions_over_time_with_every_class(systems, tmp_path):
    system = systems["multimodal_fer"]
    given = {"timeline": True, "probabilities": True, "options": {"window_seconds": 0.4}}
    row = run(system, system.files[:1], tmp_path / "out.parquet", **given)[0]
    assert row["segments"][0]["start"] == 0
    assert row["segments"][-1]["end"] == pytest.approx(0.9, abs=0.01)
    assert {"start", "end"} | {name for name in row if name.startswith("p_")} == row["curve"][0].keys()
    assert plots.minutes(59.97) == "1:00.0"
    assert all(one["end"] <= two["start"] for one, two in zip(row["curve"][:-1], row["curve"][1:], strict=True))
    for ending in ("json", "png", "srt"):
        run(system, system.files[:1], tmp_path / f"out.{ending}", **given)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [row]
    assert Image.open(tmp_path / "out.png").size == (1650, 900)
    assert (tmp_path / "out.srt").read_text(encoding="utf-8").count("-->") == len(row["segments"])


def test_languages_of_a_text_and_words_of_a_recording_have_the_same_form(systems, tmp_path):
    text = next(hf_fer.predict(systems["language_id"].model, ["one text. and another"], timeline=True))
    sound = next(hf_fer.predict(systems["speech_to_text"].model, systems["speech_to_text"].files[:1], timeline=True))
    for row in (text, sound):
        assert row["segments"]
        assert all({"start", "end", "label", "score"} == segment.keys() for segment in row["segments"])
    assert text["segments"][-1]["end"] == len("one text. and another")
    for name in ("language_id", "speech_to_text"):
        run(systems[name], systems[name].files[:1], tmp_path / f"{name}.png", timeline=True)
        assert Image.open(tmp_path / f"{name}.png").width == 1650


@pytest.mark.parametrize(
    ("name", "output", "fields", "message"),
    [
        ("csr", "out.csv", {"timeline": True}, "have no segments"),
        ("csr", "out.png", {}, "have no segments"),
        ("language_id", "out.png", {}, "give --timeline"),
        ("language_id", "out.vtt", {"timeline": True}, "have no times"),
    ],
)
def test_what_has_no_timeline_is_refused(systems, tmp_path, name, output, fields, message):
    with pytest.raises(RecipeError, match=message):
        run(systems[name], systems[name].files[:1], tmp_path / output, **fields)
    with pytest.raises(RecipeError, match="takes one input"):
        run(systems["speech_to_text"], systems["speech_to_text"].files[:2], tmp_path / "out.png")
