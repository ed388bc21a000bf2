"""The n-gram model: a distribution in every context, as KenLM reads it, and better on the text's kind than without."""

import itertools
import math
import random

import numpy as np
import pandas as pd
import pytest

from hf_fer.data.loading import DataError
from hf_fer.models.speech_to_text.train.ngram import (
    BEGIN,
    END,
    USUAL_DISCOUNTS,
    build_model,
    discounts,
    main,
    sentences_of,
    write_arpa,
)


def random_sentences(count=300, seed=0):
    draw = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(20)]
    weights = [1 / (number + 1) for number in range(20)]
    return [draw.choices(vocabulary, weights, k=draw.randint(1, 8)) for _ in range(count)]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_probabilities_add_up_to_one_after_any_words(tmp_path, order):
    kenlm = pytest.importorskip("kenlm")
    sentences = random_sentences()
    write_arpa(build_model(sentences, order), tmp_path / "lm.arpa")
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    assert model.order == order
    vocabulary = [*sorted({word for words in sentences for word in words}), END, "never seen"]
    for context in ([], ["w0"], ["w1", "w0"], ["w19", "w18"], ["strange", "w2", "w1", "w1"]):
        state, after = kenlm.State(), kenlm.State()
        model.BeginSentenceWrite(state)
        for word in context:
            model.BaseScore(state, word, after)
            state, after = after, kenlm.State()
        total = sum(10 ** model.BaseScore(state, word, kenlm.State()) for word in vocabulary)
        assert total == pytest.approx(1, abs=1e-4)


def test_a_small_model_by_hand():
    level = build_model([["a"], ["a"], ["b"]], 1)[0]
    # counts a 2, b 1, </s> 3; discounts 0.5, 1, 1.5; what is taken, 3 of 6, goes to four words evenly
    assert level[("a",)].probability == pytest.approx(1 / 6 + 0.5 / 4)
    assert level[("b",)].probability == pytest.approx(0.5 / 6 + 0.5 / 4)
    assert level[(END,)].probability == pytest.approx(1.5 / 6 + 0.5 / 4)
    assert level[("<unk>",)].probability == pytest.approx(0.5 / 4)


def test_words_of_one_context_are_rare_alone():
    # "york" is as frequent as "the", but follows one word only
    sentences = [["new", "york"]] * 10 + [[f"x{number}", "the"] for number in range(10)]
    unigrams = build_model(sentences, 2)[0]
    assert unigrams[("the",)].probability > 3 * unigrams[("york",)].probability


def test_discounts_are_those_of_chen_and_goodman():
    counts = [1] * 8 + [2] * 4 + [3] * 2 + [4] * 1
    assert discounts(counts) == pytest.approx((0.5, 1.25, 2.0))
    assert discounts([1, 1, 2]) == USUAL_DISCOUNTS


def test_it_tells_likely_sentences_from_shuffled_ones(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    draw, chain = random.Random(1), {f"w{n}": [f"w{(n * 3 + k) % 20}" for k in range(2)] for n in range(20)}

    def sentence():
        words = [f"w{draw.randrange(20)}"]
        while len(words) < 8:
            words.append(draw.choice(chain[words[-1]]))
        return words

    write_arpa(build_model([sentence() for _ in range(300)], 3), tmp_path / "lm.arpa")
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    for _ in range(20):
        words = sentence()
        assert model.score(" ".join(words)) > model.score(" ".join(words[::2] + words[1::2]))


def test_the_command_reads_the_training_split_only(tmp_path, capsys):
    table = pd.DataFrame({"transcript": ["xin chào", "ở đâu", "bí mật"], "split": ["train", "train", "validation"]})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    lm = tmp_path / "new" / "lm.arpa"
    assert main([str(tmp_path / "metadata.csv"), "--output_file", str(lm), "--order", "2"]) == 0
    text = lm.read_text(encoding="utf-8")
    assert "chào" in text
    assert "mật" not in text
    assert main([str(tmp_path / "metadata.csv"), "--output_file", str(tmp_path / "again.arpa"), "--order", "2"]) == 0
    assert (tmp_path / "again.arpa").read_bytes() == lm.read_bytes()
    assert main([str(tmp_path / "metadata.csv"), "--output_file", str(lm), "--split", "test"]) == 2
    assert "no row has split 'test'" in capsys.readouterr().err


def test_characters_and_text_files(tmp_path):
    (tmp_path / "text.txt").write_text("bé  đi\n", encoding="utf-8")
    assert sentences_of(tmp_path / "text.txt", "train", "nfc") == [["b", "é", "▁", "đ", "i"]]
    assert sentences_of(tmp_path / "text.txt", "train", "nfd") == [["b", "e", "\u0301", "▁", "đ", "i"]]


def test_what_cannot_be_a_model_is_refused():
    for sentences, message in (([[]], "no text"), ([[BEGIN]], "reserved")):
        with pytest.raises(DataError, match=message):
            build_model(sentences, 2)
    assert main(["text.txt", "--output_file", "lm.arpa", "--order", "1"]) == 2


def test_language_model_decides_between_words_that_sound_alike(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    pytest.importorskip("kenlm")
    from hf_fer.models.speech_to_text.decoding_speech_to_text import BeamDecoder, BeamSettings, words_of_arpa

    lm = tmp_path / "lm.arpa"
    write_arpa(build_model([["ab", "bo"]] * 20 + [["oo", "ao"]] * 20, 2), lm)
    assert words_of_arpa(lm) == {"ab", "bo", "oo", "ao"}
    pieces = ["<pad>", "▁", "a", "b", "o"]
    path = [token for letter in "ab▁ao" for token in (pieces.index(letter), 0)]
    logits = np.zeros((len(path), 5))
    logits[np.arange(len(path)), path] = 6
    logits[6, 3] = 5.9  # "bo" is nearly as likely as "ao"
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)

    def decoder(weight):
        settings = BeamSettings(lm_weight=weight)
        return BeamDecoder(
            pieces,
            0,
            spell=lambda word: [pieces.index(letter) for letter in word],
            lexicon=words_of_arpa(lm),
            language_model=lm,
            hot_words={"oo": 0.01},
            settings=settings,
        )

    with pytest.raises(ValueError, match="knows none of the tokens; give a lexicon"):
        BeamDecoder(pieces, 0, language_model=lm)
    assert decoder(0.0).decode(log_probs)[0].text == "ab ao"
    found = decoder(1.0).decode(log_probs, count=3)
    assert found[0].text == "ab bo"
    assert found[0].score == pytest.approx(found[0].acoustic_score + found[0].language_score)
    assert math.isfinite(found[0].language_score)
    assert found[0].language_score < 0
    assert len(build_model([["a"]], 9)) == 3
    assert all(first.score >= second.score for first, second in itertools.pairwise(found))


def test_a_model_of_characters_decides_without_a_lexicon(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    pytest.importorskip("kenlm")
    from hf_fer.models.speech_to_text.decoding_speech_to_text import BeamDecoder, BeamSettings

    lm = tmp_path / "characters.arpa"
    write_arpa(build_model([list("ab▁bo")] * 20, 3), lm)
    pieces = ["<pad>", "▁", "a", "b", "o"]
    logits = np.zeros((3, 5))
    logits[[0, 1, 2], [2, 0, 4]] = 6
    logits[2, 3] = 5.9  # "ab" is nearly as likely as "ao"
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    texts = [
        BeamDecoder(pieces, 0, language_model=lm, hot_words=hot, settings=BeamSettings(lm_weight=weight))
        .decode(log_probs)[0]
        .text
        for weight, hot in ((0.0, None), (1.0, None), (1.0, {"ao": 20.0}))
    ]
    assert texts == ["ao", "ab", "ao"]
