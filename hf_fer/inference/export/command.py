"""`hf-fer export`: turns options into settings and prints messages."""

from typing import Any

from hf_fer.inference.export.job import Settings, export_model
from hf_fer.runtime.messages import one_message


def main(**settings: Any) -> int:
    """
    Export a model, and print its report.

    Args:
        settings: Fields of `Settings`.

    Returns:
        Exit status 0. The process ends with 2 after an error that the user can correct, and with 3 if the export is
        not good enough.
    """
    with one_message():
        job = Settings(**settings)
        report = export_model(job)
    print(report.page())
    print(f"{job.output}: use it like the model itself, with hf-fer predict and hf-fer serve.")
    return 0
