"""A page for one model: an input and the model's answer."""

import importlib
import json
from pathlib import Path
from typing import Any

import gradio
from transformers import pipeline

HERE = Path(__file__).parent
SETTINGS = json.loads((HERE / "space.json").read_text(encoding="utf-8"))
INPUTS = {
    "clip": lambda: gradio.Video(label="Clip"),
    "recording": lambda: gradio.Audio(type="filepath", label="Recording"),
    "image": lambda: gradio.Image(type="filepath", label="Image"),
    "text": lambda: gradio.Textbox(lines=5, label="Text"),
}
SHOWN = 10

importlib.import_module(SETTINGS["system"])  # registers the model and its pipeline
pipe = pipeline(SETTINGS["task"], model=str(HERE / "model"))


def answer(given: str | None) -> Any:
    """The probabilities of the classes, or the transcript of a recording."""
    if not given:
        raise gradio.Error("Give an input first.")
    try:
        found = pipe(given) if SETTINGS["input"] in ("recording", "image") else pipe(given, top_k=SHOWN)
    except (ValueError, OSError, RuntimeError) as error:
        raise gradio.Error(str(error).replace(given, Path(given).name)) from error
    if SETTINGS["input"] == "recording":
        return found["text"]
    ranked = found["labels"] if isinstance(found, dict) else found
    return {entry["label"]: entry["score"] for entry in ranked}


output = gradio.Textbox(label="Text") if SETTINGS["input"] == "recording" else gradio.Label(num_top_classes=SHOWN)
page = gradio.Interface(
    answer, INPUTS[SETTINGS["input"]](), output, title=SETTINGS["title"], flagging_mode="never", api_name="answer"
)

if __name__ == "__main__":
    page.launch()
