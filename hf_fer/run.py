"""Train, evaluate and save any of the systems:

accelerate launch --config_file accelerate_configs/cpu.yaml hf_fer/run.py training_args/demo/multimodal_fer.json \
    [--any_field value ...]
"""

import sys

from hf_fer.experiment.one_run import run
from hf_fer.runtime.messages import one_message
from hf_fer.task.find import general_help, parse_task


def main(argv: list[str] | None = None) -> None:
    """
    Command line. Errors that the user can fix are one message; a traceback is a bug.

    The exit status is 2 for a recipe or data that cannot be run, 3 for a run that could not continue (memory, disk,
    too many skipped steps), and 143 or 130 for one that SIGTERM or Ctrl-C ended; see docs/robustness.md.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(general_help())
        return
    with one_message():
        run(parse_task(argv))


if __name__ == "__main__":
    main()
