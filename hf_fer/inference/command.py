"""The command `hf-fer predict`: parses the pipeline's options, prints messages, returns the exit status."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from hf_fer.inference.jobs import Settings, predict_to_file, print_summary
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.messages import one_message


def main(options: Sequence[str], **settings: Any) -> int:
    """
    Predict into a file.

    Args:
        options: Arguments of the pipeline's call, as `name=value`.
        settings: The other fields of `Settings`.

    Returns:
        The exit status: 1 if no input has an answer. Errors that the user can fix end the process with 2 or 3.
    """
    with one_message():
        try:
            job = Settings(**settings, options=read_options(options))
            summary = predict_to_file(job)
        except KeyboardInterrupt:
            print("hf_fer: interrupted; finished shards are kept, the same command continues.", file=sys.stderr)
            sys.exit(130)
    print_summary(summary, job.output)
    return int(sum(summary["errors"].values()) == summary["inputs"])


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """Parse `name=value` pairs; a value is JSON or else text. Raises `RecipeError` where there is no `=`."""
    found = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise RecipeError(f"--option {option}: write it as name=value, such as window_seconds=2.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
