"""The pipeline on a small model that is trained here: batches, long and mixed texts, unknown, and bad input."""

import itertools
import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from scipy.special import expit
from transformers import (
    AutoModelForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    pipeline,
    set_seed,
)

from hf_fer.inference.loading import find_model, load_predictor
from hf_fer.models.language_id.train.demo_text import demo_texts
from hf_fer.models.language_id.train.scratch import train_tokenizer
from hf_fer.models.language_id.windows_language_id import (
    best_path,
    cut_windows,
    familiarity,
    log_softmax,
    margins,
    natural_break,
    pool_windows,
    typical_margins,
)
from hf_fer.recipe.arguments import RecipeError

VIETNAMESE = "Cô giáo hôm nay đọc một quyển sách mới."
ENGLISH = "The old man always forgets the newspaper from yesterday."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An XLM-R of one layer that knows the demo's six languages, and settings as training leaves them."""
    rows = demo_texts()
    names = sorted(set(rows["label"]))
    tokenizer = train_tokenizer(rows["text"], vocab_size=800, max_length=32)
    set_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=34,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    config.language_id = {"max_length": 32, "overlap": 8, "temperature": 1.5, "unknown_threshold": 0.3}
    model = XLMRobertaForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    order = random.Random(0)
    for _ in range(80):
        batch = rows.iloc[order.sample(range(len(rows)), 48)]
        inputs = tokenizer(list(batch["text"]), padding=True, truncation=True, max_length=32, return_tensors="pt")
        labels = torch.tensor([names.index(label) for label in batch["label"]])
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("language_id")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def identify(checkpoint):
    return pipeline("text-language-identification", model=str(checkpoint))


def test_one_text_a_list_a_generator_and_files(identify, tmp_path):
    one = identify(VIETNAMESE)
    assert one[0]["label"] == "vi"
    assert one[0]["score"] > 0.7
    assert identify([VIETNAMESE, ENGLISH])[1][0]["label"] == "en"
    lazy = identify(text for text in [VIETNAMESE, ENGLISH])
    assert [answer[0]["label"] for answer in lazy] == ["vi", "en"]
    path = tmp_path / "a.txt"
    path.write_text(VIETNAMESE, encoding="utf-8-sig")
    assert identify(path) == one
    assert identify([]) == []


def test_a_string_is_never_a_file(identify, tmp_path):
    (tmp_path / "a.txt").write_text(VIETNAMESE, encoding="utf-8")
    assert identify(str(tmp_path / "a.txt")) != identify(VIETNAMESE)


def test_batching_changes_nothing(identify):
    texts = list(demo_texts(20)["text"])
    together = identify(texts, batch_size=32, top_k=6)
    alone = identify(texts, batch_size=1, top_k=6)
    for many, one in zip(together, alone, strict=True):
        assert [item["label"] for item in many] == [item["label"] for item in one]
        assert [item["score"] for item in many] == pytest.approx([item["score"] for item in one], abs=1e-5)


def test_top_k_sums_to_one_over_all(identify):
    answer = identify(ENGLISH, top_k=6, unknown_threshold=0)
    assert sum(item["score"] for item in answer) == pytest.approx(1)
    assert [item["score"] for item in answer] == sorted((item["score"] for item in answer), reverse=True)
    assert identify(ENGLISH, top_k=2) == answer[:2]


def test_temperature_is_applied(identify, checkpoint):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(checkpoint), identify.tokenizer
    with torch.no_grad():
        logits = model.eval()(**tokenizer(VIETNAMESE, return_tensors="pt")).logits
    expected = (logits / 1.5).softmax(-1).max().item()
    assert identify(VIETNAMESE)[0]["score"] == pytest.approx(expected, abs=1e-5)


def test_labels_restrict_and_are_any_iso_code(identify):
    answer = identify(VIETNAMESE, labels=["eng", "fra"], top_k=6, unknown_threshold=0)
    assert {item["label"] for item in answer} == {"en", "fr"}
    assert sum(item["score"] for item in answer) == pytest.approx(1)
    assert identify(VIETNAMESE, labels=["vie", "en"])[0]["label"] == "vi"
    for wrong in ("th", "klingon"):
        with pytest.raises(ValueError, match=f"does not know the language '{wrong}'; it knows"):
            identify(VIETNAMESE, labels=[wrong])
    with pytest.raises(ValueError, match="labels is empty"):
        identify(VIETNAMESE, labels=[])


def familiarity_of(identify, text, label="vi"):
    label = np.array([identify.model.config.label2id[label]])
    return familiarity(identify.log_probs([text]), label, None)[0]


def test_unknown_below_the_threshold(identify):
    own = familiarity_of(identify, VIETNAMESE)
    answer = identify(VIETNAMESE, unknown_threshold=expit(own + 1), top_k=2)
    assert answer[0] == {"label": "unknown", "score": pytest.approx(expit(1), abs=1e-4)}
    assert answer[1]["label"] == "vi"
    assert identify(VIETNAMESE, unknown_threshold=expit(own - 0.01))[0]["label"] == "vi"
    assert identify(VIETNAMESE, unknown_threshold=0)[0]["label"] == "vi"


def test_a_text_in_none_of_the_labels_is_unknown(identify):
    other = max(familiarity_of(identify, VIETNAMESE, code) for code in ("ja", "ko"))
    between = expit((other + familiarity_of(identify, VIETNAMESE)) / 2)
    assert identify(VIETNAMESE, labels=["ja", "ko"], unknown_threshold=between)[0]["label"] == "unknown"
    assert identify(VIETNAMESE, labels=["vi", "ko"], unknown_threshold=between)[0]["label"] == "vi"


def test_familiarity_is_relative_to_the_language():
    log_probs = np.array([[0.0, -4, -4], [-4, 0.0, -4], [0.0, -2, -2]])
    typical = {"mean": [2.0, 4.0, 0.0], "std": [0.7, 0.7, 0.7]}
    assert familiarity(log_probs, np.array([0, 1, 0]), typical) == pytest.approx([2.0, 0.0, 0.0])
    fitted = typical_margins(np.repeat(log_probs, 5, axis=0))
    assert fitted["mean"][:2] == [3.0, 4.0]
    assert fitted["std"][:2] == [1.0, 0.0]
    assert fitted["mean"][2] == pytest.approx(10 / 3)


def test_margins_by_hand():
    log_probs = np.array([[0.0, -1, -2, -3, -4, -5, -6], [0.0, -1, -2, -3, -4, -5, -6]])
    assert margins(log_probs, np.array([0, 1])).tolist() == [3.0, -1 + (0 + 2 + 3 + 4 + 5) / 5]
    assert margins(log_probs[:1, :3], np.array([0])).tolist() == [1.5]


def test_the_stored_threshold_is_the_default(checkpoint):
    again = pipeline("text-language-identification", model=str(checkpoint))
    again.model.config.language_id = {**again.model.config.language_id, "unknown_threshold": 1 - 1e-12}
    assert again(VIETNAMESE)[0]["label"] == "unknown"
    lenient = pipeline("text-language-identification", model=str(checkpoint), unknown_threshold=0.0, top_k=2)
    assert lenient(VIETNAMESE)[0]["label"] == "vi"
    assert len(lenient(VIETNAMESE)) == 2


@pytest.mark.parametrize("text", ["", "   \n", "😀🎉", "12:45 — 3,5 %", "\x00", "\ufffd\ufffd"])
def test_texts_without_a_letter_are_unknown(identify, text):
    assert identify(text, top_k=3) == [{"label": "unknown", "score": 1.0}]
    assert identify([ENGLISH, text])[0][0]["label"] == "en"
    assert identify(text, spans=True) == {"languages": [{"label": "unknown", "score": 1.0}], "spans": []}


def test_a_text_of_a_megabyte(identify):
    text = (VIETNAMESE + " ") * (2**20 // len(VIETNAMESE.encode()))
    assert identify(text)[0]["label"] == "vi"
    assert identify("a" * 2**17)[0]["label"] in {"unknown", *identify.model.config.id2label.values()}


def test_lone_surrogates_do_not_break_the_batch(identify):
    assert identify(["\ud800" + ENGLISH, VIETNAMESE])[0][0]["label"] == "en"


def test_bad_files_and_types(identify, tmp_path):
    (tmp_path / "latin.txt").write_bytes("déjà vu".encode("cp1252"))
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 \(byte 1\)"):
        identify(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match=r"none.txt cannot be read"):
        identify(tmp_path / "none.txt")
    for wrong in (b"bytes", 3, {"text": "a"}):
        with pytest.raises(TypeError, match=r"not (bytes|int|dict)"):
            identify(wrong)
    with pytest.raises(TypeError, match="got int"):
        identify([ENGLISH, 3])
    with pytest.raises(TypeError, match=r"Unknown parameters \['topk'\]"):
        identify(ENGLISH, topk=2)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        identify(ENGLISH, top_k=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("text", "language_id in the configuration must be an object"),
        ({"temperature": 0}, "temperature must be a positive number, got 0"),
        ({"temperature": float("nan")}, "temperature must be a positive number, got nan"),
        ({"temperature": "hot"}, "temperature must be a positive number, got 'hot'"),
        ({"unknown_threshold": 2}, r"unknown_threshold must be a number in \[0, 1\], got 2"),
        ({"max_length": "64"}, "max_length must be a whole number from 1 on, got '64'"),
        ({"typical_margins": {"mean": [1], "std": [1]}}, "typical_margins needs mean and std of each of 6 classes"),
    ],
)
def test_settings_that_would_give_wrong_scores_are_refused(checkpoint, tmp_path, settings, message):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    stored = settings if isinstance(settings, str) else {**config["language_id"], **settings}
    (folder / "config.json").write_text(json.dumps({**config, "language_id": stored}))
    with pytest.raises(RecipeError, match=message):
        load_predictor(find_model(str(folder)))


def test_a_threshold_out_of_range_is_refused(identify):
    with pytest.raises(ValueError, match=r"unknown_threshold must be a number in \[0, 1\], got 2"):
        identify("some text", unknown_threshold=2)


def test_long_texts_use_every_window(identify):
    """The first window alone would say Vietnamese."""
    text = " ".join([VIETNAMESE] * 4 + [ENGLISH] * 24)
    answer = identify(text, top_k=2, unknown_threshold=0)
    assert answer[0]["label"] == "en"
    windows = cut_windows(identify.tokenizer, [text], max_length=32, overlap=8)
    assert len(windows) > 3
    assert identify(text, max_windows=1, unknown_threshold=0)[0]["label"] == "vi"


def test_spans_of_a_mixed_text(identify):
    text = f"{ENGLISH} {ENGLISH} {VIETNAMESE} {VIETNAMESE}"
    answer = identify(text, spans=True)
    spans = answer["spans"]
    assert [span["label"] for span in spans] == ["en", "vi"]
    assert spans[0]["start"] == 0
    assert spans[0]["end"] == spans[1]["start"]
    assert spans[1]["end"] == len(text)
    assert abs(spans[0]["end"] - text.index(VIETNAMESE)) < len(VIETNAMESE)
    assert answer["languages"][0]["score"] < 0.999
    alone, mixed = identify([ENGLISH, text], spans=True)
    assert [span["label"] for span in alone["spans"]] == ["en"]
    assert mixed == answer


def test_spans_meet_at_sentence_ends_or_spaces():
    text = "One two. Ba bốn năm sáu bảy tám"
    assert natural_break(text, 6, 0, len(text)) == text.index("Ba")
    assert natural_break(text, 6, 0, 8) == 4
    assert natural_break("あ" * 9, 5, 0, 9) == 5


def test_windows_cover_the_text_and_overlap(identify):
    text = " ".join([ENGLISH] * 10)
    windows = cut_windows(identify.tokenizer, [text, "short"], max_length=32, overlap=8)
    mine = [window for window in windows if window.text == 0]
    assert mine[0].start == 0
    assert mine[-1].end == len(text)
    assert all(later.start < earlier.end for earlier, later in itertools.pairwise(mine))
    assert max(len(window.input_ids) for window in mine) == 32
    assert sum(window.text == 1 for window in windows) == 1
    few = cut_windows(identify.tokenizer, [text], max_length=32, overlap=8, max_windows=3)
    assert [few[0], few[-1]] == [mine[0], mine[-1]]
    assert len(few) == 3


def test_pooling_by_hand():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    pooled = pool_windows(logits, np.array([0, 0, 1]), np.array([3, 1, 7]), 2)
    assert np.allclose(pooled[0], log_softmax((3 * log_softmax(logits[0]) + log_softmax(logits[1])) / 4))
    assert np.allclose(pooled[1], log_softmax(logits[2]))


def test_best_path_weighs_evidence_against_switching():
    scores = np.log([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.05, 0.95], [0.05, 0.95], [0.05, 0.95]])
    assert best_path(scores, 2.0).tolist() == [0, 0, 0, 1, 1, 1]
    assert best_path(scores, 0.0).tolist() == [0, 1, 0, 1, 1, 1]
    assert best_path(scores, 100.0).tolist() == [1] * 6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(checkpoint, identify, dtype):
    half = pipeline("text-language-identification", model=str(checkpoint), dtype=dtype)
    for text in (VIETNAMESE, ENGLISH):
        assert half(text)[0]["label"] == identify(text)[0]["label"]
        assert half(text)[0]["score"] == pytest.approx(identify(text)[0]["score"], abs=0.03)


def test_saved_pipeline_loads_without_this_package(identify, tmp_path):
    identify.save_pretrained(tmp_path / "hub")
    code = (
        "import sys; sys.modules['hf_fer'] = None\n"
        "from transformers import pipeline\n"
        f"folder = {str(tmp_path / 'hub')!r}\n"
        "ours = pipeline('text-language-identification', model=folder, trust_remote_code=True)\n"
        f"print(ours({ENGLISH!r})[0]['label'], pipeline('text-classification', model=folder)({ENGLISH!r})[0]['label'])"
    )
    done = subprocess.run([warm.python("hugging_face"), "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["en", "en"], done.stderr
