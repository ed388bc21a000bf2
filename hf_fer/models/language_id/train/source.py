"""Loads language_id's data: cleaned texts of the languages to learn, with their splits."""

import logging

import pandas as pd
from transformers import AutoConfig, PreTrainedConfig

from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import DataError, LoadedData, is_leaky, to_splits
from hf_fer.data.remarks import class_order, with_remarks
from hf_fer.recipe.arguments import check_choice
from hf_fer.task.base import Task
from hf_fer.task.steps import leave_out, subset
from hf_fer.weights.starting_points import read

from . import text
from .arguments import LanguageIdDataArguments
from .demo_text import DEMO_TEXT_NOTICE, demo_texts
from .text_splits import assign_splits, drop_near_duplicates

logger = logging.getLogger(__name__)


def load_texts(task: Task) -> LoadedData:
    """Load the splits; `own` of the result holds the texts of held-out languages."""
    args = task.data_args
    rows, skipped, notes = read_rows(args)
    total = len(rows) + len(skipped)
    rows, counts = text.clean(rows, min_letters=args.min_letters)
    notes.append(
        f"{total} texts were read. Left out: {counts['empty']} empty, {counts['too_short']} with fewer than "
        f"{args.min_letters} letters, {counts['duplicate']} duplicates. {counts['ambiguous']} texts occur under "
        "more than one label."
    )
    leave_out(task, skipped, total)
    rows, held_out = choose_languages(rows, args, task.on_command_line)
    rows, protocol = split_texts(rows, args, notes)
    labels = label_names(task, rows, notes)
    rows = rows[rows["label"].isin(labels)].reset_index(drop=True)
    rows = rows.assign(labels=rows["label"].map({name: index for index, name in enumerate(labels)}))
    rows = subset(task, rows)
    absent = {split: "the data has none" for split in ("validation", "test") if split not in set(rows["split"])}
    data = LoadedData(to_splits(rows), labels, protocol, skipped, notes, absent, own=held_out)
    return with_remarks(data, group=task.group_column)


def read_rows(args: LanguageIdDataArguments) -> tuple[pd.DataFrame, list[dict[str, str]], list[str]]:
    """Texts before cleaning, with the labels' codes; files and rows left out; notes for the report."""
    if args.dataset == "demo":
        return demo_texts(), [], [DEMO_TEXT_NOTICE]
    rows, skipped = text.read_texts(args.dataset, args.form)
    return text.canonical_labels(rows) if args.label_codes == "iso639" else rows, skipped, []


def choose_languages(
    rows: pd.DataFrame, args: LanguageIdDataArguments, on_command_line: set[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    The rows of the languages to learn, and those of held-out languages.

    Args:
        rows: Rows with a `label` column.
        args: Fields of the recipe, which name languages.
        on_command_line: Fields given on the command line. The data must have the focus languages that are given there;
            it may lack those of a recipe file, which serves several data sets.

    Raises:
        DataError: the remaining texts are in fewer than two languages.
        RecipeError: the data lacks a language that the recipe names.
    """
    present = set(rows["label"])
    for name in ("languages", "held_out_languages", "focus_languages"):
        is_recipes = name == "focus_languages" and name not in on_command_line
        for code in [] if is_recipes else args.codes(name):
            check_choice(f"{name} code", code, present)
    if args.languages:
        kept = {*args.codes("languages"), *args.codes("held_out_languages")}
        rows = rows[rows["label"].isin(kept)]
    out = rows["label"].isin(args.codes("held_out_languages"))
    held_out, rows = (rows[chosen].reset_index(drop=True) for chosen in (out, ~out))
    if rows["label"].nunique() < 2:
        raise DataError(
            f"{args.dataset}: the remaining texts are in {sorted(set(rows['label'])) or 'no language'}; at least two "
            "languages are needed."
        )
    return rows, held_out


def split_texts(rows: pd.DataFrame, args: LanguageIdDataArguments, notes: list[str]) -> tuple[pd.DataFrame, str]:
    """The rows with their splits, without near-duplicates across splits, and the protocol; adds to `notes`."""
    protocol = args.protocol or "disjoint"
    rows, split_notes = assign_splits(
        rows,
        protocol=protocol,
        seed=args.split_seed,
        validation_fraction=args.validation_fraction,
        test_fraction=args.test_fraction,
    )
    notes += split_notes
    rows, copies = drop_copies(rows, (), leaky=is_leaky(protocol), text_columns=("text",))
    notes += copies
    if protocol == "disjoint" and args.near_duplicate_threshold is not None:
        rows, near = drop_near_duplicates(rows, args.near_duplicate_threshold)
        notes.append(
            f"Left out as copies or near-duplicates of a text in a later split: {near['train']} texts of "
            f"training, {near['validation']} of validation."
        )
    return rows, protocol


def label_names(task: Task, rows: pd.DataFrame, notes: list[str]) -> list[str]:
    """The languages with training texts, or, without training, those that the checkpoint knows."""
    path = task.model_args.model_name_or_path
    if not task.training_args.do_train and path:
        return known_languages(path, set(rows["label"]))
    counts = rows["label"][rows["split"] == "train"].value_counts()
    lost = sorted(set(rows["label"]) - set(counts.index))
    if lost:
        notes.append(f"Left out because they have no training text: {', '.join(lost)}.")
    few = sorted(counts.index[counts < 10])
    if few:
        examples = ", ".join(f"{name} ({counts[name]})" for name in few[:20])
        notes.append(f"Languages with fewer than 10 training texts, too few to learn or to evaluate: {examples}.")
        logger.warning(notes[-1])
    if len(counts) < 2:
        raise DataError(f"{task.data_args.dataset}: has training texts in fewer than two languages.")
    known = checkpoint_config(path).id2label if path else {}
    return class_order(sorted(counts.index), [known[index] for index in sorted(known)], training=True)


def known_languages(path: str, present: set[str]) -> list[str]:
    """The checkpoint's languages in its order; raises `DataError` if the data has others."""
    config = checkpoint_config(path)
    known = [config.id2label[index] for index in range(config.num_labels)]
    if present - set(known):
        raise DataError(
            f"{path} does not know {sorted(present - set(known))}, so it cannot be scored on them. Name them as "
            "--held_out_languages, or name the languages to score with --languages."
        )
    return known


def checkpoint_config(path: str, **overrides: object) -> PreTrainedConfig:
    """The configuration of a checkpoint, with fields of the recipe; raises `RecipeError` if it cannot be read."""
    return read(AutoConfig.from_pretrained, path, **overrides)
