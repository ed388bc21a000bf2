"""Turns errors that the user can fix into one message and an exit status."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import transformers

from hf_fer.data.loading import DataError
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.console import quiet
from hf_fer.runtime.failures import RunError, unwritable
from hf_fer.runtime.interruption import Interrupted, exit_on_sigterm
from hf_fer.runtime.launch import start_all_processes


@contextmanager
def one_message() -> Iterator[None]:
    """Print errors that the user can fix as one message and exit with a status; see `hf_fer.run.main`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    transformers.utils.logging.set_verbosity_warning()
    try:
        start_all_processes()
        with quiet(), exit_on_sigterm():
            yield
    except (RecipeError, DataError, RunError) as error:
        print(f"hf_fer: error: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, RunError) else 2)
    except OSError as error:
        told = unwritable(error)
        if told is None:
            raise
        print(f"hf_fer: error: {told}", file=sys.stderr)
        sys.exit(3)
    except Interrupted as stop:
        print(f"hf_fer: {stop}", file=sys.stderr)
        sys.exit(stop.exit_status)
    except KeyboardInterrupt:
        print("hf_fer: interrupted; nothing was saved since the last checkpoint.", file=sys.stderr)
        sys.exit(130)
