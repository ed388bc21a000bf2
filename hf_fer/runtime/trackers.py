"""Passes the report's scores and images to the run's experiment trackers, and CodeCarbon's estimate to the report."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from matplotlib.image import imread
from transformers import Trainer, TrainingArguments
from transformers.integrations import CodeCarbonCallback, TensorBoardCallback, TrackioCallback, WandbCallback


def log_report(trainer: Trainer, scores: Mapping[str, float], report: Path, shareable: tuple[str, ...]) -> None:
    """
    Add final scores and images of the report to those of TensorBoard, Weights & Biases and Trackio that the run uses.

    The Trainer's own callbacks stop logging when training ends, before the report is written.

    Args:
        trainer: The Trainer after `train`, in the main process.
        scores: `split/name` -> score.
        report: Folder of the report.
        shareable: Glob patterns of the files that may leave the machine; no other image is logged.
    """
    pictures = [
        file for file in sorted(report.glob("*.png")) if any(fnmatch(file.name, pattern) for pattern in shareable)
    ]
    step = trainer.state.global_step
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir:
            _to_tensorboard(callback, scores, pictures, step)
        if isinstance(callback, WandbCallback):
            _to_wandb(scores, pictures)
        if isinstance(callback, TrackioCallback):
            _to_trackio(scores, pictures, trainer.args)


def _to_tensorboard(
    callback: TensorBoardCallback, scores: Mapping[str, float], pictures: list[Path], step: int
) -> None:
    """Open a new writer in the folder of the run's events, because the callback has closed its own."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=callback.logging_dir) as writer:
        for name, value in scores.items():
            writer.add_scalar(name, value, step)
        for picture in pictures:
            writer.add_image(picture.stem, imread(picture)[..., :3], step, dataformats="HWC")


def _to_wandb(scores: Mapping[str, float], pictures: list[Path]) -> None:
    """Log to the run that the callback has opened, if it is still open."""
    import wandb

    if wandb.run is not None:
        wandb.run.log({**scores, **{picture.stem: wandb.Image(str(picture)) for picture in pictures}})


def _to_trackio(scores: Mapping[str, float], pictures: list[Path], args: TrainingArguments) -> None:
    """Log to the callback's run; resume it if the callback has closed it because nothing was scored after training."""
    import trackio

    if trackio.context_vars.current_run.get() is None:
        trackio.init(project=args.project, name=args.run_name, space_id=args.trackio_space_id, resume="allow")
    trackio.log({**scores, **{picture.stem: trackio.Image(str(picture)) for picture in pictures}})
    trackio.finish()


def emissions(trainer: Trainer) -> dict[str, Any]:
    """
    CodeCarbon's estimate for the training, if `report_to` names `codecarbon`.

    Returns:
        `energy_wh`, `co2_g` (grams of CO2 equivalent) and `co2_country`, whose electricity mix the estimate assumes;
        an empty dictionary without CodeCarbon.
    """
    for callback in trainer.callback_handler.callbacks:
        tracker = callback.tracker if isinstance(callback, CodeCarbonCallback) else None
        if tracker is not None and (data := tracker.final_emissions_data) is not None:
            return {
                "energy_wh": 1000 * data.energy_consumed,
                "co2_g": 1000 * data.emissions,
                "co2_country": data.country_name,
            }
    return {}
