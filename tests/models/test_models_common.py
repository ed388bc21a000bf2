"""The same checks over every model folder that has a modeling file.

A folder `hf_fer/models/<name>` brings `tests/models/suite_<name>.py`, which says how to make a small model and batch.
"""

import copy
import importlib
from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import nn
from transformers import AutoConfig, Trainer, TrainingArguments, set_seed

from hf_fer import models

FOLDERS = sorted(path.parent.name for path in Path(models.__path__[0]).glob("*/modeling_*.py"))
SUITES = {name: importlib.import_module(f"models.suite_{name}") for name in FOLDERS}
CASES = [(suite, model_class) for suite in SUITES.values() for model_class in suite.MODELS]


def over(cases: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("suite", "model_class"), cases, ids=[case[1].__name__ for case in cases])


WITH_LAYERS = [case for case in CASES if case[1].supports_gradient_checkpointing]
"""Models of layers that can be wrapped, or recomputed, and that have states; a table of weights has none."""
every_model = over(CASES)
with_loss = over([case for case in CASES if "For" in case[1].__name__])
with_layers = over(WITH_LAYERS)
with_layers_and_loss = over([case for case in WITH_LAYERS if "For" in case[1].__name__])


def build(suite, model_class, seed: int = 0):
    set_seed(seed)
    return model_class(suite.config()).eval()


@with_layers
def test_fsdp_finds_the_layers_that_it_wraps(suite, model_class):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model := build(suite, model_class))
    assert any(wraps(part) for part in model.modules())


def inputs_for(model_class, batch: dict) -> dict:
    return batch if "For" in model_class.__name__ else {k: v for k, v in batch.items() if k != "labels"}


def take(batch: dict, index: slice) -> dict:
    return {name: tensor[index] for name, tensor in batch.items()}


def freeze_norm_statistics(model: nn.Module) -> None:
    """BatchNorm sees another batch under accumulation; its statistics are not what these tests are about."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
            module.train = lambda mode=True, module=module: module


def test_every_folder_is_covered():
    assert FOLDERS
    for suite in SUITES.values():
        assert suite.MODELS


@every_model
def test_save_and_load(suite, model_class, tmp_path):
    model = build(suite, model_class)
    batch = inputs_for(model_class, suite.batch())
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(
            suite.main_output(loaded.eval()(**batch)), suite.main_output(model(**batch)), rtol=0, atol=0
        )


@every_model
def test_config_round_trip(suite, model_class, tmp_path):
    config = suite.config()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert type(loaded) is type(config)


@every_model
def test_auto_classes(suite, model_class, tmp_path):
    build(suite, model_class).save_pretrained(tmp_path)
    for auto_class in suite.MODELS[model_class]:
        assert type(auto_class.from_pretrained(tmp_path)) is model_class


@every_model
def test_alone_equals_in_a_batch(suite, model_class):
    model, batch = build(suite, model_class), inputs_for(model_class, suite.batch())
    with torch.no_grad():
        together = suite.main_output(model(**batch))
        for index in range(len(together)):
            alone = suite.main_output(model(**take(batch, slice(index, index + 1))))
            torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-6)


@every_model
def test_padding_changes_nothing(suite, model_class):
    model, batch = build(suite, model_class), inputs_for(model_class, suite.batch())
    with torch.no_grad():
        short, long = (suite.main_output(model(**inputs)) for inputs in (batch, suite.longer(batch)))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-6)


@with_loss
def test_gradient_reaches_every_parameter(suite, model_class):
    model = build(suite, model_class).train()
    model(**suite.batch()).loss.backward()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    without = [name for name, value in trained.items() if value.grad is None or not value.grad.any()]
    # A bias on attention keys adds the same to every score of a query, so its true gradient is zero.
    assert [name for name in without if not name.endswith(("k_proj.bias", "key.bias", "score.bias"))] == []


@with_loss
def test_accumulation_equals_the_larger_batch(suite, model_class, tmp_path):
    """One optimiser step of the stock Trainer: 4 at once, and 2 x 2."""
    data = [take(suite.batch(4), index) for index in range(4)]
    weights = []
    for size, accumulation in ((4, 1), (2, 2)):
        config = suite.config()
        config.contrastive_loss_weight = 0.0  # its negatives are the micro-batch's by design
        set_seed(0)
        model = model_class(config)
        freeze_norm_statistics(model)
        args = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(model, args, train_dataset=data, data_collator=stack).train()
        weights.append(flat_weights(model))
    set_seed(0)
    assert (weights[0] - flat_weights(model_class(config))).abs().max() > 1e-3
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def stack(rows: list[dict]) -> dict:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def flat_weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@with_loss
def test_same_seed_same_training(suite, model_class):
    def after_two_steps() -> torch.Tensor:
        config = suite.config()
        config.modality_dropout = config.dropout = 0.3
        set_seed(1)
        model = model_class(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(2):
            model(**suite.batch(seed=step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return flat_weights(model)

    torch.testing.assert_close(after_two_steps(), after_two_steps(), rtol=0, atol=0)


@every_model
def test_deep_copy_is_independent(suite, model_class):
    model, batch = build(suite, model_class), inputs_for(model_class, suite.batch())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = suite.main_output(model(**batch))
        torch.testing.assert_close(suite.main_output(twin(**batch)), expected, rtol=0, atol=0)
        next(twin.parameters()).add_(1.0)
        torch.testing.assert_close(suite.main_output(model(**batch)), expected, rtol=0, atol=0)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision(suite, model_class, dtype, tmp_path):
    model, batch = build(suite, model_class), inputs_for(model_class, suite.batch())
    model.save_pretrained(tmp_path)
    half = model_class.from_pretrained(tmp_path, dtype=dtype).eval()
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
    with torch.no_grad():
        output, expected = suite.main_output(half(**cast)), suite.main_output(model(**batch))
        single = suite.main_output(half(**batch))  # as a pipeline and bf16_full_eval give it
    torch.testing.assert_close(single, output, rtol=0, atol=0)
    assert output.dtype == dtype
    assert torch.isfinite(output).all()
    assert (output.float() - expected).abs().max() < 0.1 * expected.abs().max()


@with_layers_and_loss
def test_gradient_checkpointing_changes_nothing(suite, model_class):
    gradients = []
    for checkpointing in (False, True):
        model = build(suite, model_class).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**suite.batch()).loss.backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@with_layers
def test_sdpa_equals_eager(suite, model_class, tmp_path):
    build(suite, model_class).save_pretrained(tmp_path)
    # One example without padding: the eager Parakeet of transformers 5.17 turns padded frames into NaN.
    batch = take(inputs_for(model_class, suite.batch()), slice(0, 1))
    outputs = []
    for kind in ("sdpa", "eager"):
        model = model_class.from_pretrained(tmp_path, attn_implementation=kind).eval()
        assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {kind}
        with torch.no_grad():
            outputs.append(suite.main_output(model(**batch)))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-6)
