"""Training: what the loop reads, one run from end to end, its report, and what users do wrong."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    pipeline,
)

from hf_fer import run
from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import DataError
from hf_fer.experiment.dry_run import describe
from hf_fer.models.language_id.train import report as findings
from hf_fer.models.language_id.train.demo_text import demo_texts
from hf_fer.models.language_id.train.scratch import train_tokenizer
from hf_fer.models.language_id.train.texts import TextCollator, TrainingTexts, cut_text, cut_words
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "training_args" / "demo" / "language_id.json")
RECIPES = sorted((ROOT / "training_args").glob("language_id*.json"))


def task_of(*arguments: object, recipe: str = DEMO):
    return parse_task([recipe, *map(str, arguments)])


def write_csv(path: Path, rows: pd.DataFrame) -> Path:
    rows.drop(columns="path", errors="ignore").to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(demo_texts()["text"])


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts, vocab_size=800, max_length=64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on the demo sentences with French held out, and a few labels in validation and test swapped."""
    folder = tmp_path_factory.mktemp("run")
    task = task_of(
        "--output_dir", folder, "--num_train_epochs", 3, "--held_out_languages", "fra", "--report_to", "none",
        "--disable_tqdm", "true",
    )  # fmt: skip
    run.run(task)
    return folder


@pytest.fixture(scope="module")
def metrics(trained) -> dict:
    return json.loads((trained / "report" / "metrics.json").read_text(encoding="utf-8"))


def test_run_reports_what_was_asked(metrics):
    assert metrics["protocol"] == "disjoint"
    for split in ("validation", "test"):
        scores = metrics[split]
        assert scores["accuracy"] > 0.95
        assert set(scores["by_length"]) == set(scores["texts_by_length"])
        assert sum(scores["texts_by_length"].values()) == scores["samples"] == 60
        assert {"temperature", "ece_before", "ece_after"} <= set(scores["calibration"])
        assert {"vi", "ja", "ko", "en", "accuracy", "accuracy_restricted", "texts"} == set(scores["focus"])
        assert {"accuracy", "uar"} <= set(scores["single_words"])
        assert scores["unknown"]["auroc"] == scores["unknown"]["auroc_fr"] > 0.5
    assert metrics["validation"]["unknown"]["accepted"] == pytest.approx(0.98, abs=0.02)
    assert "fr" not in metrics["data"]["counts"]["train"]


def test_run_writes_its_tables(trained):
    for name in ("accuracy_by_length", "confused_pairs", "suspected_label_noise", "per_class"):
        assert (trained / "report" / f"{name}.csv").is_file()
        assert f"{name}.csv" in (trained / "report" / "report.md").read_text(encoding="utf-8")
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "text-language-identification" in card
    assert "synthetic" in card


def test_the_saved_model_is_stock_and_carries_its_settings(trained, metrics):
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    assert type(model).__module__.startswith("transformers.models.")
    stored = model.config.language_id
    assert stored["temperature"] == pytest.approx(metrics["test"]["calibration"]["temperature"])
    assert stored["unknown_threshold"] == pytest.approx(metrics["test"]["unknown"]["threshold"])
    plain = pipeline("text-classification", model=str(trained))
    assert plain("Em gái tôi lúc nào cũng quên tờ báo hôm qua.")[0]["label"] == "vi"


def test_the_pipeline_agrees_with_the_report(trained, metrics):
    """Evaluation groups by length and comes back in another order: a mistake there would show here."""
    task = task_of("--output_dir", trained / "again", "--held_out_languages", "fr")
    data = task.load_data()
    identify = pipeline("text-language-identification", model=str(trained), unknown_threshold=0.0)
    answers = identify(list(data.splits["test"]["text"]))
    truth = [data.labels[label] for label in data.splits["test"]["labels"]]
    accuracy = np.mean([answer[0]["label"] == label for answer, label in zip(answers, truth, strict=True)])
    assert accuracy == pytest.approx(metrics["test"]["accuracy"])

    # The card's tag invites the stock pipeline: the same languages, and the same scores where nothing is calibrated.
    texts = list(data.splits["test"]["text"])
    stock = pipeline("text-classification", model=str(trained))(texts, truncation=True)
    assert [answer["label"] for answer in stock] == [answer[0]["label"] for answer in answers]
    identify.model.config.language_id["temperature"] = 1.0
    ours = [answer[0]["score"] for answer in identify(texts)]
    np.testing.assert_allclose([answer["score"] for answer in stock], ours, atol=1e-4)


def test_a_checkpoint_is_evaluated_with_its_own_labels_and_settings(trained, tmp_path):
    rows = demo_texts(20).query("label in ['vi', 'en']").assign(split="test")
    rows.loc[rows.index[0], "text"] = " ".join(rows["text"].head(20))  # of several windows, and one text nevertheless
    path = write_csv(tmp_path / "a.csv", rows)
    arguments = ["--dataset", path, "--do_train", "false", "--report_to", "none", "--focus_languages", "vi", "en"]
    arguments += ["--protocol", "given_leaky"]  # the demo has few sentences, and training has seen most of them
    run.run(task_of(*arguments, "--model_name_or_path", trained, "--output_dir", tmp_path / "out"))
    scores = json.loads((tmp_path / "out" / "report" / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert scores["samples"] == 40
    assert scores["accuracy"] > 0.95
    stored = AutoModelForSequenceClassification.from_pretrained(trained).config.language_id
    assert scores["calibration"]["temperature"] == stored["temperature"]
    bare = tmp_path / "bare"
    shutil.copytree(trained, bare, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((bare / "config.json").read_text(encoding="utf-8"))
    del config["language_id"]
    (bare / "config.json").write_text(json.dumps(config), encoding="utf-8")
    more = demo_texts(30).query("label in ['vi', 'en']").assign(split="validation").reset_index(drop=True)
    more.loc[0, "label"] = "en" if more.loc[0, "label"] == "vi" else "vi"  # without an error nothing can be fitted
    write_csv(path, more)
    run.run(task_of(*arguments, "--model_name_or_path", bare, "--output_dir", tmp_path / "fit"))
    scores = json.loads((tmp_path / "fit" / "report" / "metrics.json").read_text(encoding="utf-8"))["validation"]
    assert scores["calibration"]["temperature"] != 1
    assert scores["unknown"]["threshold"] > 0
    more = write_csv(tmp_path / "b.csv", demo_texts(20).assign(split="test"))
    with pytest.raises(DataError, match=r"does not know \['fr'\]"):
        task_of(*arguments, "--model_name_or_path", trained, "--dataset", more).load_data()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(recipe):
    task = task_of("--fp16", "false", recipe=str(recipe))
    assert task.training_args.train_sampling_strategy == "group_by_length"
    assert task.training_args.metric_for_best_model == "weighted_f1"


def test_the_default_recipe_has_the_agreed_defaults():
    recipe = json.loads((ROOT / "training_args" / "language_id.json").read_text(encoding="utf-8"))
    agreed = {"max_length": 512, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2,
              "learning_rate": 2e-5, "num_train_epochs": 3, "fp16": True, "eval_steps": 100,
              "early_stopping_patience": 3, "early_stopping_threshold": 0.001}  # fmt: skip
    assert {name: recipe[name] for name in agreed} == agreed


def test_the_tokenizer_has_seen_training_alone(tmp_path):
    rows = demo_texts(40).assign(split=["train"] * 30 + ["validation"] * 5 + ["test"] * 5 + ["train"] * 200)
    rows.loc[rows["split"] != "train", "text"] += " " + "зверюга " * 20
    task = task_of("--dataset", write_csv(tmp_path / "a.csv", rows), "--output_dir", tmp_path)
    data = task.load_data()
    vocabulary = task.build_processor(data).get_vocab()
    assert not [piece for piece in vocabulary if "Ð" in piece and len(piece) > 1]
    assert len(vocabulary) > 300


def make_training_texts(texts, tokenizer, **options):
    settings = {"max_length": 64, "short_copies": 1, "short_lengths": (5, 20), "token_dropout": 0.0, "seed": 0,
                "clock": EpochClock()}  # fmt: skip
    return TrainingTexts(texts, list(range(len(texts))), tokenizer, **{**settings, **options})


def test_short_copies_are_seeded_by_epoch_and_row(texts, tokenizer):
    clock = EpochClock()
    data = make_training_texts(texts, tokenizer, clock=clock)
    assert len(data) == 2 * len(texts)
    short = list(range(len(texts), len(data)))
    first = data.__getitems__(short)
    assert first == [data[row] for row in short]
    assert first == make_training_texts(texts, tokenizer).__getitems__(short)
    assert [example["labels"] for example in first] == list(range(len(texts)))
    clock.epoch = 1
    assert data.__getitems__(short) != first
    assert data[0]["input_ids"] == tokenizer(texts[0])["input_ids"]
    assert np.mean([len(e["input_ids"]) for e in first]) < np.mean([len(data[i]["input_ids"]) for i in range(200)])


def test_token_dropout_spares_special_tokens(texts, tokenizer):
    hidden = make_training_texts(texts, tokenizer, token_dropout=0.3, short_copies=0).__getitems__(list(range(300)))
    tokens = [token for example in hidden for token in example["input_ids"][1:]]
    assert np.mean([token == tokenizer.unk_token_id for token in tokens]) == pytest.approx(0.3, abs=0.05)
    assert {example["input_ids"][0] for example in hidden} == {tokenizer.bos_token_id}


def test_long_training_texts_are_read_from_anywhere(tokenizer):
    document = " ".join(chr(97 + number % 26) * (1 + number % 7) for number in range(3000))
    data = make_training_texts([document], tokenizer, short_copies=0)
    seen = set()
    for epoch in range(5):
        data.clock.epoch = epoch
        assert len(data[0]["input_ids"]) == 64
        seen.add(tuple(data[0]["input_ids"]))
    assert len(seen) > 1


def test_cuts_keep_words_where_there_are_spaces():
    rng = random.Random(0)
    text = "alpha beta gamma delta epsilon zeta"
    for _ in range(50):
        assert set(cut_text(text, 8, rng).split()) <= set(text.split())
        assert len(cut_text("東京都千代田区丸の内一丁目", 4, rng)) == 4
        assert cut_words(text, 2, rng) in text
        assert len(cut_words(text, 2, rng).split()) == 2
    assert cut_text(text, 500, rng) == text
    assert len(cut_words("東京都千代田区", 1, rng)) == 3


def test_batches_are_padded_to_their_longest(tokenizer):
    batch = TextCollator(tokenizer)([{"input_ids": [0, 9, 9], "labels": 1}, {"input_ids": [0, 9], "labels": 0}])
    assert batch["input_ids"].tolist() == [[0, 9, 9], [0, 9, tokenizer.pad_token_id]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert TextCollator(tokenizer, pad_to=8)([{"input_ids": [0], "labels": 1}])["input_ids"].shape == (1, 8)


def test_long_documents_are_scored_by_all_their_windows(tmp_path):
    rows = demo_texts(40)
    document = " ".join(rows[rows["label"] == "en"]["text"])
    rows = pd.concat([rows, pd.DataFrame({"text": [document], "label": ["en"]})], ignore_index=True)
    rows["split"] = ["train"] * 239 + ["validation", "test"]
    task = task_of("--dataset", write_csv(tmp_path / "a.csv", rows), "--near_duplicate_threshold", 0.95)
    data = task.load_data()
    prepared = task.with_transforms(data, task.build_processor(data), EpochClock())
    assert len(prepared["test"]) > 3
    assert set(prepared["test"]["text"]) == {0}
    assert max(prepared["test"]["length"]) == 64


@pytest.fixture
def small_xlm_r(tmp_path, tokenizer) -> Path:
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=66, pad_token_id=tokenizer.pad_token_id, num_labels=6,
    )  # fmt: skip
    folder = tmp_path / "xlmr"
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pretrained_checkpoint_gets_a_new_head_and_frozen_parts(small_xlm_r, tmp_path):
    plain = AutoTokenizer.from_pretrained(small_xlm_r)
    plain.backend_tokenizer.normalizer = None
    plain.save_pretrained(small_xlm_r)
    task = task_of(
        "--model_name_or_path", small_xlm_r, "--freeze", "roberta.embeddings", "--output_dir", tmp_path,
        "--config_overrides", '{"hidden_dropout_prob": 0.0}',
    )  # fmt: skip
    data = task.load_data()
    processor = task.build_processor(data)
    model = task.build_model(data, processor)
    assert model.config.id2label == dict(enumerate(["de", "en", "fr", "ja", "ko", "vi"]))
    assert model.config.hidden_dropout_prob == 0.0
    stored = load_file(small_xlm_r / "model.safetensors")  # a head for as many classes, but of others
    assert not torch.equal(model.classifier.out_proj.weight, stored["classifier.out_proj.weight"])
    layer = "roberta.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(model.state_dict()[layer], stored[layer])
    assert not any(parameter.requires_grad for parameter in model.roberta.embeddings.parameters())
    assert all(parameter.requires_grad for parameter in model.classifier.parameters())
    assert processor("\uff56\uff49")["input_ids"] == processor("vi")["input_ids"]
    assert "Memory" in describe(task, data, task.with_transforms(data, processor, EpochClock()), model, processor)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--overlap", "63"], RecipeError, "overlap must be in"),
        (["--short_lengths", "9", "3"], RecipeError, "short_lengths"),
        (["--token_dropout", "1.5"], RecipeError, "token_dropout must be in"),
        (["--near_duplicate_threshold", "1"], RecipeError, "near_duplicate_threshold must be in"),
        (["--vocab_size", "10"], RecipeError, "vocab_size must be at least 300"),
        (["--focus_languages", "vi", "vienamese"], RecipeError, "focus_languages: 'vienamese' is neither"),
        (["--held_out_languages", "vi"], RecipeError, r"share \['vi'\]"),
        (["--focus_languages", "vi", "th"], RecipeError, "Unknown focus_languages code 'th'"),
        (["--languages", "vi", "--focus_languages", "vi"], DataError, "at least two languages are needed"),
        (["--protocol", "other"], DataError, "Unknown protocol 'other'"),
        (["--dataset", "none.csv"], DataError, "none.csv: file not found"),
    ],
)
def test_bad_recipes(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        task_of("--output_dir", tmp_path, *arguments).load_data()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_name_or_path", "nowhere/at-all"], "nowhere/at-all has no model that can be loaded"),
        (["--config_overrides", '{"hiden_size": 1}'], "Unknown config_overrides field 'hiden_size'; did you mean"),
        (["--freeze", "model.embedings"], "Unknown freeze part 'model.embedings'; did you mean 'model.embeddings'"),
    ],
)
def test_bad_models(arguments, message, tmp_path):
    task = task_of("--output_dir", tmp_path, *arguments)

    def build():
        data = task.load_data()
        return task.build_model(data, task.build_processor(data))

    with pytest.raises(RecipeError, match=message):
        build()


def test_a_label_with_one_text_trains_and_is_named(tmp_path):
    rows = pd.concat([demo_texts(30), pd.DataFrame({"text": ["Buenos días a todos"], "label": ["spa"]})])
    data = task_of("--dataset", write_csv(tmp_path / "a.csv", rows), "--output_dir", tmp_path).load_data()
    assert "es" in data.labels
    assert data.counts()["train"]["es"] == 1
    assert any("too few to learn or to evaluate: es (1)" in note for note in data.notes)


def test_a_label_without_training_texts_is_left_out_by_name(tmp_path):
    rows = demo_texts(10).assign(split=["train", "test"] * 30)
    rows.loc[rows["label"] == "fr", "split"] = "test"
    data = task_of("--dataset", write_csv(tmp_path / "a.csv", rows), "--output_dir", tmp_path).load_data()
    assert "fr" not in data.labels
    assert any("because they have no training text: fr" in note for note in data.notes)


def test_unlabelled_rows_count_against_the_limit(tmp_path):
    rows = demo_texts(10)
    rows.loc[3, "label"] = ""
    arguments = ["--dataset", write_csv(tmp_path / "a.csv", rows), "--output_dir", tmp_path]
    with pytest.raises(DataError, match=r"1 of 60 examples cannot be used[\s\S]*row 4: has no label"):
        task_of(*arguments).load_data()
    data = task_of(*arguments, "--max_skipped_fraction", 0.05).load_data()
    assert len(data.skipped) == 1
    assert "row 4" in (tmp_path / "report" / "skipped.jsonl").read_text(encoding="utf-8")


def test_inspect_lists_files_and_labels(tmp_path):
    path = write_csv(tmp_path / "a.csv", pd.DataFrame({"text": ["xin chào", " "], "label": ["vie", "en"]}))
    files, unusable = type(task_of()).inspect(str(path))
    assert files["label"].tolist() == ["vi", "en"]
    assert unusable == [{"path": f"{path} row 2", "reason": "is empty"}]


@pytest.fixture
def scored() -> findings.Scored:
    rows = pd.DataFrame(
        {"path": ["r1", "r2", "r3", "r4"], "text": ["a" * 10, "b" * 11, "c" * 300, "d" * 9],
         "label": ["en", "vi", "vi", "en"]}
    )  # fmt: skip
    log_probs = np.log([[0.9, 0.1], [0.95, 0.05], [0.2, 0.8], [0.4, 0.6]])
    return findings.Scored(rows, np.array([0, 1, 1, 0]), log_probs)


def test_length_buckets_hold_their_bounds(scored):
    table = findings.accuracy_by_length(scored)
    assert table["characters"].tolist() == ["up to 10", "up to 20", "over 200"]
    assert table["texts"].tolist() == [2, 1, 1]
    assert table["accuracy"].tolist() == [0.5, 0.0, 1.0]


def test_confused_pairs_and_noise(scored):
    pairs = findings.confused_pairs(scored, ["en", "vi"])
    assert pairs.set_index(["true", "predicted"])["texts"].to_dict() == {("en", "vi"): 1, ("vi", "en"): 1}
    assert pairs["share"].tolist() == [0.5, 0.5]
    noise = findings.suspected_noise(scored, ["en", "vi"], 1.0, 0.9)
    assert noise[["path", "label", "predicted"]].to_numpy().tolist() == [["r2", "vi", "en"]]
    assert noise["confidence"].iloc[0] == pytest.approx(0.95)


def test_focus_counts_only_its_languages(scored):
    scores = findings.focus_metrics(scored, ["en", "vi"], ["vi"])
    assert scores == {"texts": 2, "accuracy": 0.5, "accuracy_restricted": 1.0, "vi": 0.5}


def test_padding_does_not_change_the_model_from_scratch(tmp_path):
    task = task_of("--output_dir", tmp_path)
    data = task.load_data()
    processor = task.build_processor(data)
    model = task.build_model(data, processor).eval()
    ids = processor(data.splits["test"]["text"][0], return_tensors="pt")
    padded = processor(data.splits["test"]["text"][0], return_tensors="pt", padding="max_length", max_length=64)
    with torch.no_grad():
        torch.testing.assert_close(model(**ids).logits, model(**padded).logits, rtol=1e-4, atol=1e-5)
