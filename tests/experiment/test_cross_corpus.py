"""A model of each data set, scored on all of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from media import tone, write_clip
from runs import metrics_of, write_recipe

from hf_fer.experiment.cross_corpus import main

LETTERS = {"N": 200, "F": 500, "W": 900, "L": 1400}
CODES = {"NEU": 220, "HAP": 520, "ANG": 880, "SAD": 300}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[Path, Path]:
    """Tones with EMO-DB's names, four classes, and with CREMA-D's, of which three are the same."""
    root, draw = tmp_path_factory.mktemp("corpora"), np.random.default_rng(0)
    for who in ("03", "08", "09", "10"):
        for letter, pitch in LETTERS.items():
            sound = tone(0.4, 16000, frequency=pitch * draw.uniform(0.9, 1.1))
            write_clip(root / "emodb" / f"{who}a01{letter}a.wav", audio=sound)
    for who in ("1001", "1002", "1003", "1004"):
        for code, pitch in CODES.items():
            sound = tone(0.4, 16000, frequency=pitch * draw.uniform(0.9, 1.1))
            write_clip(root / "crema" / f"{who}_DFA_{code}_XX.wav", audio=sound)
    return root / "emodb", root / "crema"


@pytest.fixture(scope="module")
def table(corpora, tmp_path_factory) -> tuple[pd.DataFrame, Path, str]:
    folder = tmp_path_factory.mktemp("cross")
    fields = {"max_train_samples": None, "max_eval_samples": None, "do_predict": True, "num_train_epochs": 1}
    recipe = write_recipe(folder, **fields)
    assert main([recipe, *map(str, corpora), "--output_dir", str(folder / "all")]) == 0
    return pd.read_csv(folder / "all" / "cross_corpus.csv"), folder, recipe


def test_every_pair_has_a_row(table):
    rows, folder, _ = table
    assert [tuple(pair) for pair in rows[["trained_on", "scored_on"]].to_numpy()] == [
        ("emodb", "emodb"),
        ("emodb", "crema"),
        ("crema", "emodb"),
        ("crema", "crema"),
    ]
    for row in rows.itertuples():
        name = row.trained_on if row.trained_on == row.scored_on else f"{row.trained_on}_on_{row.scored_on}"
        assert row.score == pytest.approx(metrics_of(folder / "all" / name)["test"]["uar"], abs=1e-4)


def test_other_pairs_are_scored_on_the_classes_that_both_have(table):
    rows, folder, _ = table
    assert rows["classes"].tolist() == [
        "neutral happy angry bored",
        "neutral happy angry",
        "neutral happy angry",
        "neutral happy sad angry",
    ]
    assert rows["samples"].tolist() == [4, 3, 3, 4]
    notes = metrics_of(folder / "all" / "crema_on_emodb")["data"]["notes"]
    assert any("does not know are left out (bored)" in note for note in notes)


def test_the_page_shows_the_table(table):
    page = (table[1] / "all" / "report.md").read_text()
    assert "| trained_on | crema | emodb |" in page
    assert "emodb: test" in page


def test_what_is_trained_is_kept(table, corpora, capsys):
    _, folder, recipe = table
    before = (folder / "all" / "emodb" / "model.safetensors").stat().st_mtime_ns
    main([recipe, *map(str, corpora), "--output_dir", str(folder / "all")])
    assert (folder / "all" / "emodb" / "model.safetensors").stat().st_mtime_ns == before
    assert "finished before, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ravdess_audio", "one"], "at least two data sets"),
        (["ravdess_audio", "a/one", "b/one"], "Two data sets are called one"),
        (["ravdess_audio", "one", "two", "--do_train", "false"], "--do_train: cross-corpus sets these fields itself"),
        ([], "at least two data sets"),
    ],
)
def test_what_cannot_be_is_one_message(words, message, capsys):
    with pytest.raises(SystemExit) as status:
        main(words)
    assert status.value.code == 2
    assert message in capsys.readouterr().err
