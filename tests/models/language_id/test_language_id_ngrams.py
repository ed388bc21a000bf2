"""The n-gram model: which n-grams it sees, its start from counts, and what it shares with other models."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import warm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_fer.models.language_id import LanguageIdNgramConfig, LanguageIdNgramForSequenceClassification
from hf_fer.models.language_id.modeling_language_id import rows_of, text_keys
from hf_fer.models.language_id.train.ngrams import (
    Start,
    character_tokenizer,
    count_ngrams,
    fill,
    ngram_config,
    start_weights,
)
from hf_fer.run import main

TEXTS = ["the cat sat on the mat", "a dog and the cat", "le chat est sur la table", "un chien et le chat"]
LABELS = [0, 0, 1, 1]
NEW = ["the chat", "le dog", "table", "and", "sur the mat", "un"]


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(TEXTS, 64)


ONLY_LM = Start(discount=0.75, smoothing=0.01, share=0.0, min_counts=[1])


def started(tokenizer, start: Start, **fields) -> LanguageIdNgramForSequenceClassification:
    config = ngram_config(tokenizer, 64, num_labels=2, **{"max_ngram": 4, "length_power": 0.0, **fields})
    keys, weights = start_weights(count_ngrams(config, tokenizer, TEXTS, LABELS), start)
    config.num_ngrams = len(keys)
    model = LanguageIdNgramForSequenceClassification(config).eval()
    fill(model, keys, weights)
    return model


@pytest.fixture(scope="module")
def model(tokenizer):
    return started(tokenizer, ONLY_LM)


def logits(model, tokenizer, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def test_n_grams_lie_within_words_and_their_ends(model, tokenizer):
    for text in ("cat", "the cat", "a le", "un chien et"):
        found = torch.cat(text_keys(model.config, **tokenizer([text], return_tensors="pt")), dim=1)
        assert int((found >= 0).sum()) == len(ngrams(text))


def test_the_same_n_gram_has_one_row_wherever_it_is(model, tokenizer):
    (alone,), (inside,) = (model.rows(**tokenizer([text], return_tensors="pt")) for text in ("cat", "dog cat sat"))
    alone, inside = set(alone[alone >= 0].tolist()), set(inside[inside >= 0].tolist())
    assert alone < inside


def test_an_end_of_a_text_is_the_end_of_a_word(model, tokenizer):
    assert torch.allclose(logits(model, tokenizer, ["cat"]), logits(model, tokenizer, [" cat "]), atol=1e-5)


def test_rows_are_those_of_a_dictionary():
    table = torch.tensor([2, 3, 5, 8, 13])
    keys = torch.tensor([[-1, 2, 4, 13], [14, 5, 0, 8]])
    assert rows_of(keys, table).tolist() == [[-1, 0, -1, 4], [-1, 2, -1, 3]]
    assert rows_of(keys, table[:1]).tolist() == [[-1, 0, -1, -1], [-1, -1, -1, -1]]


def probability(word: str, place: int, size: int, texts: list[str], discount: float) -> float:
    """Interpolated absolute discounting of `word[place]` after the `size - 1` characters before it, by hand."""
    grams = [gram for text in TEXTS for gram in ngrams(text)] + [" "]
    own = [gram for text in texts for gram in ngrams(text)]
    if size == 1:
        own = [gram for gram in own if len(gram) == 1] + [" " for text in texts for _ in range(len(text.split()) + 1)]
        lower, after = 1 / len({gram for gram in grams if len(gram) == 1}), own
    else:
        lower = probability(word, place, size - 1, texts, discount)
        after = [gram for gram in own if len(gram) == size and gram[:-1] == word[place - size + 1 : place]]
    if not after:
        return lower
    count = after.count(word[place - size + 1 : place + 1])
    return max(count - discount, 0) / len(after) + discount * len(set(after)) / len(after) * lower


@pytest.mark.parametrize("word", ["cat", "chat", "dog", "mat"])
def test_starts_as_a_language_model_with_absolute_discounting(model, tokenizer, word):
    """The sum of an n-gram's weights telescopes to the log-likelihood after the longest known context."""
    padded, expected = f" {word} ", []
    for texts in (TEXTS[:2], TEXTS[2:]):
        total = 0.0
        for place in range(1, len(padded)):
            known = [gram for text in TEXTS for gram in ngrams(text)]
            sizes = [size for size in range(1, min(4, place + 1) + 1) if padded[place - size + 1 : place + 1] in known]
            total += np.log(probability(padded, place, max(sizes), texts, 0.75))
            if padded[place] == " ":  # a boundary alone has no weight
                total -= np.log(probability(padded, place, 1, texts, 0.75))
        expected.append(total)
    found = logits(model, tokenizer, [word])[0].numpy()
    assert np.diff(found) == pytest.approx(np.diff(expected), abs=1e-4)


def test_naive_bayes_is_added_by_its_share(model, tokenizer):
    """What the share adds for a text is the difference of its n-grams' log-frequencies."""
    added = logits(started(tokenizer, dataclasses.replace(ONLY_LM, share=1.0)), tokenizer, ["chat"])
    added = (added - logits(model, tokenizer, ["chat"]))[0].numpy()
    expected = np.zeros(2)
    for gram in ngrams("chat"):
        for label in (0, 1):
            own = [
                part for text in TEXTS[2 * label : 2 * label + 2] for part in ngrams(text) if len(part) == len(gram)
            ]
            if len(gram) == 1:
                own += [" "] * sum(len(text.split()) + 1 for text in TEXTS[2 * label : 2 * label + 2])
            known = gram in [part for text in TEXTS for part in ngrams(text)]
            expected[label] += known * (np.log(own.count(gram) + 0.01) - np.log(len(own) + 0.01))
    assert np.diff(added) == pytest.approx(np.diff(expected), abs=1e-3)


def test_rare_n_grams_have_no_row(tokenizer):
    some = started(tokenizer, dataclasses.replace(ONLY_LM, min_counts=[1, 1, 2]))
    known = [gram for text in TEXTS for gram in ngrams(text)]
    kept = {gram for gram in known if len(gram) < 3 or known.count(gram) > 1}
    assert some.config.num_ngrams == len(kept)


def test_long_texts_are_counted_whole(tokenizer):
    """A text that is longer than the window is counted in pieces."""
    config = ngram_config(tokenizer, 64, num_labels=2, max_ngram=1)
    long = " ".join(["cat"] * 100)
    (single,) = count_ngrams(config, tokenizer, [long, "dog"], [0, 1])
    assert single.counts[single.keys >= 0].sum(axis=0).tolist() == [[300, 3]]


def ngrams(text: str) -> list[str]:
    """As scikit-learn's `char_wb`, but each n-gram of a word once, and no space alone."""
    found = []
    for word in text.split():
        padded = f" {word} "
        for size in range(1, 5):
            pieces = (padded[start : start + size] for start in range(len(padded) - size + 1))
            found += [piece for piece in pieces if piece != " "]
    return found


def test_padding_changes_nothing(model, tokenizer):
    together = logits(model, tokenizer, NEW)
    alone = torch.cat([logits(model, tokenizer, [text]) for text in NEW])
    assert torch.allclose(together, alone, atol=1e-5)


def test_an_empty_text_has_logits(model, tokenizer):
    assert torch.isfinite(logits(model, tokenizer, [""])).all()


def test_every_weight_of_a_text_gets_a_gradient_and_no_other(model, tokenizer):
    batch = tokenizer(["the chat"], return_tensors="pt")
    model(**batch, labels=torch.tensor([1])).loss.backward()
    touched = set(model.ngrams.weight.grad.abs().sum(dim=1).nonzero().ravel().tolist())
    found = model.rows(**batch)
    model.zero_grad()
    assert touched == set(found[found >= 0].tolist())


def test_dropout_hides_n_grams_in_training_only(model, tokenizer):
    model.config.ngram_dropout = 0.5
    model.train()
    torch.manual_seed(0)
    first, second = (logits(model, tokenizer, NEW) for _ in range(2))
    model.eval()
    assert not torch.equal(first, second)
    assert torch.equal(logits(model, tokenizer, NEW), logits(model, tokenizer, NEW))
    model.config.ngram_dropout = 0.0


@pytest.mark.parametrize(
    ("fields", "message"), [({"num_ngrams": 0}, "num_ngrams"), ({"ngram_dropout": 1.0}, "ngram_dropout")]
)
def test_sizes_that_cannot_be(fields, message):
    with pytest.raises(Exception, match=message):
        LanguageIdNgramConfig(**fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The demo's texts with the n-gram model."""
    folder = tmp_path_factory.mktemp("ngrams")
    fields = ["--architecture", "ngrams", "--num_train_epochs", "1", "--learning_rate", "0.01", "--max_grad_norm", "0"]
    fields += [
        "--output_dir",
        str(folder / "out"),
        "--report_to",
        "none",
    ]
    recipe = json.loads((sys.modules["hf_fer.recipe.shipped"].shipped_recipes()["demo/language_id"]).read_text())
    (folder / "recipe.json").write_text(json.dumps({k: v for k, v in recipe.items() if k != "config_overrides"}))
    main([str(folder / "recipe.json"), *fields, "--disable_tqdm", "true"])
    return folder / "out"


def test_a_run_trains_saves_and_reports(trained):
    metrics = json.loads((trained / "report" / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.8
    identify = pipeline("text-language-identification", model=str(trained))
    assert identify("Hôm nay trời đẹp quá", unknown_threshold=0.0)[0]["label"] == "vi"
    spans = identify("Where are you going tomorrow? Hôm nay trời đẹp quá, tôi muốn đi chơi.", spans=True)["spans"]
    assert [span["label"] for span in spans] == ["en", "vi"]


def test_loads_where_hf_fer_is_not_installed(trained):
    texts = ["Hôm nay trời đẹp quá", "a word"]
    script = (
        "import sys, json; sys.modules['hf_fer'] = None\n"
        "from transformers import pipeline\n"
        f"classify = pipeline('text-classification', model={str(trained)!r}, trust_remote_code=True)\n"
        f"print(json.dumps([answer['label'] for answer in classify({texts!r})]))"
    )
    done = subprocess.run([warm.python("hugging_face"), "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    model, tokenizer = (kind.from_pretrained(trained) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    best = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(dim=-1)
    assert json.loads(done.stdout.splitlines()[-1]) == [model.config.id2label[int(index)] for index in best]
