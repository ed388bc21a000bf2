"""The n-gram model: which n-grams it sees, its start from naive Bayes, and what it shares with other models."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import warm
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_fer.models.language_id import LanguageIdNgramConfig, LanguageIdNgramForSequenceClassification
from hf_fer.models.language_id.train.ngrams import character_tokenizer, ngram_config, start_from_counts
from hf_fer.run import main

TEXTS = ["the cat sat on the mat", "a dog and the cat", "le chat est sur la table", "un chien et le chat"]
LABELS = [0, 0, 1, 1]
NEW = ["the chat", "le dog", "table", "and", "sur the mat", "un"]


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(TEXTS, 64)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ngram_config(tokenizer, 64, num_labels=2, max_ngram=4)
    model = LanguageIdNgramForSequenceClassification(config).eval()
    start_from_counts(model, tokenizer, TEXTS, LABELS, 0.01)
    return model


def logits(model, tokenizer, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def test_n_grams_lie_within_words_and_their_ends(model, tokenizer):
    for text in ("cat", "the cat", "a le", "un chien et"):
        found = model.buckets(**tokenizer([text], return_tensors="pt"))
        assert int((found >= 0).sum()) == len(ngrams(text))


def test_the_same_n_gram_has_one_bucket_wherever_it_is(model, tokenizer):
    (alone,), (inside,) = (model.buckets(**tokenizer([text], return_tensors="pt")) for text in ("cat", "dog cat sat"))
    alone, inside = set(alone[alone >= 0].tolist()), set(inside[inside >= 0].tolist())
    assert alone < inside


def test_an_end_of_a_text_is_the_end_of_a_word(model, tokenizer):
    assert torch.allclose(logits(model, tokenizer, ["cat"]), logits(model, tokenizer, [" cat "]), atol=1e-5)


def test_starts_as_naive_bayes(model, tokenizer):
    """With the length's power at 0 the differences between languages are those of multinomial naive Bayes."""
    counts = CountVectorizer(analyzer=lambda text: ngrams(text), lowercase=False)
    bayes = MultinomialNB(alpha=0.01, fit_prior=False).fit(counts.fit_transform(TEXTS), LABELS)
    known = counts.transform(NEW)
    expected = np.diff(known @ bayes.feature_log_prob_.T, axis=1).ravel()
    before, model.config.length_power = model.config.length_power, 0.0
    found = np.diff(logits(model, tokenizer, NEW).numpy(), axis=1).ravel()
    model.config.length_power = before
    # Its sums of counts have the buckets that were never seen, each with the smoothing.
    unseen = model.config.num_buckets - len(counts.vocabulary_)
    totals = np.array([bayes.feature_count_[index].sum() + 0.01 * len(counts.vocabulary_) for index in (0, 1)])
    shift = np.diff(np.log(totals) - np.log(totals + 0.01 * unseen))
    sizes = np.array([len(ngrams(text)) for text in NEW])
    missing = np.array([len(ngrams(text)) for text in NEW]) - np.asarray(known.sum(axis=1)).ravel()
    expected = expected + shift * (sizes - missing)
    assert found == pytest.approx(expected, abs=1e-2)
    assert (np.sign(found) == np.sign(expected)).all()


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
    found = model.buckets(**batch)
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
    ("fields", "message"), [({"num_buckets": 1}, "num_buckets"), ({"ngram_dropout": 1.0}, "ngram_dropout")]
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
        "--config_overrides",
        '{"num_buckets": 4093}',
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
