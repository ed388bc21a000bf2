"""The guard against steps that are not finite, with the stock Trainer on batches in memory."""

import math

import pytest
import torch
from models import suite_multimodal_fer as suite
from transformers import Trainer, TrainerCallback, set_seed

from hf_fer.experiment.fit import train_watched
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.runtime.failures import RunError
from hf_fer.runtime.nonfinite import NonFiniteGuard

NAN, INF = float("nan"), float("inf")


def rows(count: int = 8) -> list[dict[str, torch.Tensor]]:
    batches = [suite.batch(4, seed=seed) for seed in range(count // 4)]
    return [{name: tensor[index] for name, tensor in batch.items()} for batch in batches for index in range(4)]


def stack(examples: list[dict]) -> dict:
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def make_trainer(tmp_path, data, callbacks=(), **fields) -> Trainer:
    set_seed(0)
    model = MultimodalFerForEmotionClassification(suite.config())
    settings = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = TrainingArguments(output_dir=str(tmp_path), **{**settings, **fields})
    return Trainer(model, args, train_dataset=data, eval_dataset=data[:4], data_collator=stack, callbacks=[*callbacks])


def skipped(trainer: Trainer) -> int:
    return next(part for part in trainer.callback_handler.callbacks if isinstance(part, NonFiniteGuard)).skipped


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Parameters, buffers and the optimiser's moments."""
    moments = {
        f"{name} {index}": value
        for index, state in trainer.optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    return {**trainer.model.state_dict(), **moments}


def all_finite(trainer: Trainer) -> bool:
    found = tensors(trainer)
    assert any("running_mean" in name for name in found)
    assert any("exp_avg_sq" in name for name in found)
    return all(torch.isfinite(tensor).all() for tensor in found.values())


class Snapshots(TrainerCallback):
    """Copies of everything a step may change, before and after each step."""

    def __init__(self):
        self.before, self.after, self.rates = [], [], []

    @staticmethod
    def _copy(model, optimizer):
        moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
        return [value.clone() for value in model.state_dict().values()] + moments

    def on_step_begin(self, args, state, control, model, optimizer, **kwargs):
        self.before.append(self._copy(model, optimizer))

    def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, **kwargs):
        self.after.append(self._copy(model, optimizer))
        self.rates.append(lr_scheduler.get_last_lr()[0])


def poison(data: list[dict], name: str, value: float) -> list[dict]:
    """The sixth clip's first valid values replaced."""
    data[5] = {**data[5], name: data[5][name].clone(), "attention_mask": torch.ones(120, dtype=torch.long)}
    data[5]["frame_mask"] = torch.ones(6, dtype=torch.long)
    data[5][name][:2] = value
    return data


@pytest.mark.parametrize(
    ("name", "value", "bf16"),
    [
        ("input_features", NAN, False),
        ("pixel_values", INF, False),
        ("input_features", 3e38, False),
        ("input_features", NAN, True),
    ],
    ids=["nan samples", "infinite pixels", "overflow", "nan samples in bf16"],
)
def test_one_bad_clip_leaves_everything_finite(tmp_path, name, value, bf16):
    trainer = make_trainer(tmp_path, poison(rows(), name, value), bf16=bf16)
    train_watched(trainer, False)
    assert trainer.state.global_step == 8
    assert skipped(trainer) == 2  # once an epoch
    assert all_finite(trainer)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    logged = [entry["skipped_steps"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == sorted(logged)
    assert logged[-1] == 2
    # A loss that was never there is not logged as 0.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(math.isnan(loss) for loss in losses) == 2
    assert all(loss > 0 or math.isnan(loss) for loss in losses)


def test_without_the_guard_the_model_is_lost(tmp_path):
    """The drill above is one that the stock Trainer fails."""
    trainer = make_trainer(tmp_path, poison(rows(), "input_features", NAN))
    trainer.train()
    assert not all_finite(trainer)


def test_statistics_alone_are_guarded_too(tmp_path):
    """A clip without a label does not count in the loss, but BatchNorm sees it."""
    data = poison(rows(), "input_features", NAN)
    data[5]["labels"] = torch.tensor(-100)
    trainer = make_trainer(tmp_path, data)
    train_watched(trainer, False)
    assert all_finite(trainer)


def test_fp16_overflow_with_a_gradient_scaler(tmp_path):
    """1e5 is finite, and infinite in fp16. Autocast and scaler are the real ones, on the CPU."""
    trainer = make_trainer(tmp_path, poison(rows(), "input_features", 1e5), max_skipped_steps=40, num_train_epochs=4)
    trainer.accelerator.state._mixed_precision = "fp16"
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    try:
        train_watched(trainer, False)
    finally:
        trainer.accelerator.state._mixed_precision = "no"
    assert 4 <= skipped(trainer) < 16
    assert trainer.accelerator.scaler.get_scale() < 2.0**10
    assert all_finite(trainer)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_skipped_step_changes_nothing_but_the_schedule(tmp_path, accumulation):
    seen = Snapshots()
    trainer = make_trainer(
        tmp_path,
        poison(rows(16), "input_features", NAN),
        [seen],
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        num_train_epochs=1,
    )
    train_watched(trainer, False)
    bad = 2 // accumulation
    for step, (before, after) in enumerate(zip(seen.before, seen.after, strict=True)):
        same = [torch.equal(x, y) for x, y in zip(before, after, strict=False)]
        assert all(same) if step == bad else not all(same)
    assert skipped(trainer) == 1
    assert seen.rates[bad] < seen.rates[bad - 1]
    assert seen.rates[-1] == 0.0


def test_a_norm_over_the_limit_is_skipped_before_clipping_hides_it(tmp_path):
    data = poison(rows(), "input_features", 1e4)
    seen = Snapshots()
    trainer = make_trainer(tmp_path, data, [seen], skip_grad_norm=1e-9, max_skipped_steps=100, max_grad_norm=1e-12)
    train_watched(trainer, False)
    assert skipped(trainer) == 8
    for x, y in zip(seen.before[0], trainer.model.state_dict().values(), strict=False):
        assert torch.equal(x, y)


def test_many_in_a_row_stop_the_run_with_advice(tmp_path):
    trainer = make_trainer(tmp_path, rows(), skip_grad_norm=1e-9, max_skipped_steps=3)
    with pytest.raises(RunError, match=r"3 steps in a row.*over skip_grad_norm = 1e-09.*--learning_rate 0.0003"):
        train_watched(trainer, False)
    assert trainer.state.global_step == 2


def test_the_row_starts_anew_after_a_good_step(tmp_path):
    data = poison(rows(), "pixel_values", NAN)
    trainer = make_trainer(tmp_path, data, max_skipped_steps=2, train_sampling_strategy="sequential")
    train_watched(trainer, False)
    assert skipped(trainer) == 2


def test_the_count_goes_on_in_a_resumed_run(tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 4}
    train_watched(make_trainer(tmp_path, poison(rows(), "input_features", NAN), **fields), False)
    resumed = make_trainer(tmp_path, poison(rows(), "input_features", NAN), **fields)
    train_watched(resumed, str(tmp_path / "checkpoint-4"))
    assert skipped(resumed) == 2


@pytest.mark.parametrize("fields", [{"skip_grad_norm": 0.0}, {"max_skipped_steps": 0}])
def test_impossible_limits(tmp_path, fields):
    with pytest.raises(RecipeError, match=next(iter(fields))):
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **fields)
