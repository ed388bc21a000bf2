"""
The command `hf-fer`, with one verb for each task of the package.

Heavy modules are imported inside the verb that needs them, so that help and completion are fast.
"""

import importlib
import shutil
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from hf_fer import __version__, models
from hf_fer.recipe.shipped import shipped_recipes

FIELDS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

app = typer.Typer(
    name="hf-fer",
    help="Train, evaluate and use emotion, language, speech and concept models.",
    epilog="On several GPUs: accelerate launch hf_fer/run.py RECIPE [--field value ...]",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(
    help="List the recipes that come with the package, or copy one to change it.",
    short_help="List or copy the recipes of the package.",
    no_args_is_help=True,
)
app.add_typer(recipes, name="recipe")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf_fer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(context_settings=FIELDS, short_help="Train and evaluate: RECIPE [--any_field value ...]")
def train(context: typer.Context) -> None:
    """RECIPE [--any_field value ...]: train, evaluate, report. RECIPE is a file or a name: see `recipe list`."""
    from hf_fer import run

    run.main(context.args)


@app.command("dry-run", context_settings=FIELDS, short_help="Show data, parameters and memory of a run.")
def dry_run(context: typer.Context) -> None:
    """RECIPE [--any_field value ...]: show data, parameters and memory of a run, and train nothing."""
    from hf_fer import run

    run.main([*context.args, "--dry_run", "true"] if context.args else [])


@app.command(context_settings=FIELDS, short_help="Run recipes that build on one another.")
def stages(context: typer.Context) -> None:
    """RECIPE RECIPE ... [--any_field value ...]: run recipes that build on one another; finished ones are skipped."""
    from hf_fer.experiment import stages

    stages.main(context.args)


@app.command("cross-corpus", context_settings=FIELDS, short_help="Train on each data set, score on all.")
def cross_corpus(context: typer.Context) -> None:
    """RECIPE DATASET DATASET ... [--any_field value ...]: train on each data set, score on all, and write a table."""
    from hf_fer.experiment import cross_corpus

    cross_corpus.main(context.args)


@app.command(context_settings=FIELDS, short_help="Train on data that the package draws.")
def demo(context: typer.Context) -> None:
    """[SYSTEM] [--any_field value ...]: train on data that the package draws itself."""
    from hf_fer import run
    from hf_fer.experiment import stages

    system, fields = models.FLAGSHIP, context.args
    if fields and not fields[0].startswith("-"):
        system, fields = fields[0], fields[1:]
    chosen = [name for name in shipped_recipes() if name.startswith(f"demo/{system}")]
    if not chosen:
        systems = sorted({name.removeprefix("demo/").split("_1_")[0] for name in shipped_recipes() if "demo/" in name})
        raise typer.BadParameter(f"no demo of {system!r}; there are: {', '.join(systems)}")
    (run.main if len(chosen) == 1 else stages.main)([*chosen, *fields])


@app.command(short_help="Predict files, folders and tables with a model.")
def predict(
    model: Annotated[str, typer.Argument(help="Folder of a saved model, or its name on the Hub.")],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, tables, Hub data sets; labels are optional.")],
    output: Annotated[str, typer.Option(help="A .parquet, .csv, .json or .jsonl; for one input .srt, .vtt or .png.")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add the probability of every class.")
    ] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Add segments with start, end and label.")] = False,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="Number of inputs in a batch.")] = None,
    num_processes: Annotated[
        int, typer.Option("--num_processes", help="Number of processes, each with its own model.")
    ] = 1,
    engine: Annotated[str, typer.Option(help="processes, or ray for a cluster.")] = "processes",
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster; auto for this machine's.")] = None,
    shard_size: Annotated[int, typer.Option("--shard_size", help="Inputs per shard; a kill loses one shard.")] = 256,
    option: Annotated[list[str] | None, typer.Option(help="Pipeline argument, name=value; repeatable.")] = None,
    backend: Annotated[str | None, typer.Option(help="Required backend: torch, onnx or torch_export.")] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of tables.")] = "utf-8",
    delimiter: Annotated[str | None, typer.Option(help="Column delimiter of a CSV.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Predict every input with a model. If the command was killed, run it again to continue."""
    from hf_fer.data.tables import TableFormat
    from hf_fer.inference import command

    status = command.main(
        option or [],
        model=model,
        sources=inputs,
        output=output,
        probabilities=probabilities,
        timeline=timeline,
        batch_size=batch_size,
        num_processes=num_processes,
        engine=engine,
        address=address,
        shard_size=shard_size,
        backend=backend,
        form=TableFormat(encoding, delimiter),
        overwrite=overwrite,
    )
    raise typer.Exit(status)


@app.command("pseudo-label", short_help="Keep confident predictions as training data.")
def pseudo_label(
    model: Annotated[str, typer.Argument(help="Folder of a saved model, or its name on the Hub.")],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders and tables without labels.")],
    output: Annotated[str, typer.Option(help="Table to write: .csv, .parquet or .jsonl.")],
    min_confidence: Annotated[
        float, typer.Option("--min_confidence", help="Smallest confidence of an answer that is kept.")
    ] = 0.9,
    batch_size: Annotated[int | None, typer.Option("--batch_size", help="Number of inputs in a batch.")] = None,
    num_processes: Annotated[
        int, typer.Option("--num_processes", help="Number of processes, each with its own model.")
    ] = 1,
    option: Annotated[list[str] | None, typer.Option(help="Pipeline argument, name=value; repeatable.")] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of tables.")] = "utf-8",
    delimiter: Annotated[str | None, typer.Option(help="Column delimiter of a CSV.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Predict unlabelled inputs, and write the confident answers as a table to train on (self-training)."""
    from hf_fer.data.tables import TableFormat
    from hf_fer.inference import pseudo_label as labelling

    status = labelling.main(
        option or [],
        model=model,
        sources=inputs,
        output=output,
        min_confidence=min_confidence,
        batch_size=batch_size,
        num_processes=num_processes,
        form=TableFormat(encoding, delimiter),
        overwrite=overwrite,
    )
    raise typer.Exit(status)


@app.command(short_help="Serve models over HTTP and in a browser.")
def serve(
    models: Annotated[list[str], typer.Argument(help="Folders of saved models or Hub names; or name=folder.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option(help="Token that requests must send; or HF_FER_SERVE_TOKEN.")] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether to serve a page for browsers at /.")] = True,
    max_bytes: Annotated[int | None, typer.Option("--max_bytes", help="Largest upload (104857600).")] = None,
    max_seconds: Annotated[float | None, typer.Option("--max_seconds", help="Longest recording (300).")] = None,
    max_timeline_seconds: Annotated[
        float | None, typer.Option("--max_timeline_seconds", help="Longest recording of a timeline (3600).")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max_pixels", help="Largest picture, in pixels (33554432).")
    ] = None,
    max_frames: Annotated[int | None, typer.Option("--max_frames", help="Longest video (20000).")] = None,
    queue: Annotated[int | None, typer.Option(help="Requests at a time; others get status 429 (64).")] = None,
    backend: Annotated[str | None, typer.Option(help="Required backend: torch, onnx or torch_export.")] = None,
) -> None:
    """Serve models: typed routes under /v1, their documentation at /docs, health at /healthz and /readyz."""
    from hf_fer.inference.serve import command

    limits = {"max_bytes": max_bytes, "max_pixels": max_pixels, "max_frames": max_frames}
    limits |= {"max_seconds": max_seconds, "max_timeline_seconds": max_timeline_seconds}
    given = {"host": host, "port": port, "token": token, "page": page, "backend": backend}
    raise typer.Exit(command.main(models, **given, queue=queue, **limits))


@app.command(short_help="A model as ONNX or torch.export, with proof.")
def export(
    model: Annotated[str, typer.Argument(help="Folder of a saved model, or its name on the Hub.")],
    output: Annotated[str, typer.Option(help="Folder to make.")],
    form: Annotated[str, typer.Option("--format", help="onnx or torch_export.")],
    dtype: Annotated[str, typer.Option(help="Type of the weights: fp32, fp16 or int8.")] = "fp32",
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of the training, to compare on the model's own validation split.")
    ] = None,
    examples: Annotated[str | None, typer.Option(help="Table or folder to compare on instead; or else noise.")] = None,
    max_metric_drop: Annotated[
        float, typer.Option("--max_metric_drop", help="Largest loss of a metric that is allowed.")
    ] = 0.01,
    max_difference: Annotated[
        float | None,
        typer.Option("--max_difference", help="Difference of logits that is allowed, as a share of the largest."),
    ] = None,
    allow_loss: Annotated[bool, typer.Option("--allow_loss", help="Write it all the same, and mark it.")] = False,
) -> None:
    """Write a model as a graph with its processor, and compare both; refused where they differ too much."""
    from hf_fer.inference.export import command

    status = command.main(
        model=model,
        output=output,
        form=form,
        dtype=dtype,
        recipe=recipe,
        examples=examples,
        max_metric_drop=max_metric_drop,
        max_difference=max_difference,
        allow_loss=allow_loss,
    )
    raise typer.Exit(status)


@app.command(short_help="Upload a finished run to the Hub.")
def push(
    model: Annotated[str, typer.Argument(help="Folder of a finished run.")],
    repo: Annotated[str, typer.Argument(help="owner/name on the Hub; created if it does not exist.")],
    space: Annotated[bool, typer.Option("--space", help="Upload a Space: a page that runs the model.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload model, code, card and figures of a finished run. Only files that have changed are sent."""
    from hf_fer.inference import push as pushing

    raise typer.Exit(pushing.main(model, repo, space=space, private=private))


@app.command(context_settings=FIELDS, short_help="Check the data in a folder or table.")
def check(context: typer.Context) -> None:
    """PATH [--task SYSTEM]: show what is in a folder or table, and what is wrong with it."""
    from hf_fer.data import check

    raise typer.Exit(check.main(context.args))


@app.command(context_settings=FIELDS, short_help="List or clear decoded media and features.")
def cache(context: typer.Context) -> None:
    """[list | clear NAME ...]: list or clear decoded media and features that are kept for later runs."""
    from hf_fer.data import cache

    raise typer.Exit(cache.main(context.args))


@app.command(short_help="Show versions, devices, missing extras.")
def env() -> None:
    """Show versions, devices and missing extras, for bug reports."""
    from hf_fer.reporting import report

    typer.echo(report.environment_page())


@recipes.command("list")
def list_recipes() -> None:
    """List the names that `train`, `dry-run` and `stages` take."""
    for name in shipped_recipes():
        typer.echo(name)


@recipes.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="One of `hf-fer recipe list`.")],
    destination: Annotated[Path | None, typer.Argument(help="File or folder; by default this folder.")] = None,
) -> None:
    """Copy a recipe to change it; an existing file stays as it is."""
    known = shipped_recipes()
    if name not in known:
        raise typer.BadParameter(f"no recipe {name!r}; `hf-fer recipe list` shows the names", param_hint="NAME")
    target = destination or Path()
    target = target / known[name].name if target.is_dir() else target
    if target.exists():
        raise typer.BadParameter(f"{target} exists already", param_hint="DESTINATION")
    shutil.copyfile(known[name], target)
    typer.echo(f"{target}: a copy of {name}. Run it with: hf-fer train {target}")


def _add_verbs_of_systems() -> None:
    """Add the verbs that a system's folder lists in `verbs.toml`; the system is imported only when a verb runs."""
    for file in sorted(file for folder in models.__path__ for file in Path(folder).glob("*/verbs.toml")):
        for name, verb in tomllib.loads(file.read_text(encoding="utf-8")).items():
            _add_verb(name, f"hf_fer.models.{file.parent.name}.{verb['module']}", verb["help"])


def _add_verb(name: str, module: str, summary: str) -> None:
    @app.command(name, context_settings=FIELDS, short_help=summary, help=summary)
    def verb(context: typer.Context) -> None:
        raise typer.Exit(importlib.import_module(module).main(context.args))


_add_verbs_of_systems()


if __name__ == "__main__":
    app()
