"""LoRA through the one entry: trained, resumed, merged or kept apart, and loaded again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from models.multimodal_fer.test_multimodal_fer_backbones import save_backbones
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

from hf_fer.adapters import LoraSettings, add_lora, load_adapter_model, trained_modules
from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.train.task import MultimodalFerTask
from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, str]:
    return save_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def recipe(tmp_path, small_ravdess, backbones):
    def write(**fields) -> str:
        whole = {
            "task": "multimodal_fer",
            "dataset": str(small_ravdess),
            "modalities": ["audio"],
            "model_size": "tiny",
            "audio_backbone": backbones["audio"],
            "fusion_backbone": backbones["fusion"],
            "fusion_num_layers": 3,
            "freeze": ["fusion"],
            "lora": LORA,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.003,
            "max_train_samples": 24,
            "max_eval_samples": 16,
            "output_dir": str(tmp_path / "out"),
            "disable_tqdm": True,
            "use_cpu": True,
            "report_to": "none",
            **fields,
        }
        (tmp_path / "recipe.json").write_text(json.dumps(whole))
        return str(tmp_path / "recipe.json")

    return write


def logits(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model.eval()(input_features=torch.randn(3, 60, 80, generator=generator)).logits


def metrics(folder: Path) -> dict:
    return json.loads((folder / "report" / "metrics.json").read_text())


def frozen_model(**fields) -> MultimodalFerForEmotionClassification:
    model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset("tiny", **fields))
    model.freeze(["vision", "fusion"])
    return model


class TestWrapping:
    def test_adapters_on_the_fusion_and_nowhere_else(self):
        model = add_lora(frozen_model(), LoraSettings.from_recipe(LORA, MultimodalFerTask.lora_targets))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        adapted = {name for name in trained if "lora_" in name}
        assert adapted
        assert all(".fusion." in name for name in adapted)
        assert not any(".vision_encoder." in name for name in trained)
        assert all(".modules_to_save." in name for name in trained - adapted)
        for part in ("audio_encoder", "temporal_encoder", "modality_embedding", "classifier", "auxiliary.audio"):
            assert any(f"{part}.modules_to_save" in name for name in trained), part

    def test_everything_that_trained_still_trains(self):
        model = frozen_model()
        before = sum(p.numel() for p in model.parameters() if p.requires_grad)
        wrapped = add_lora(model, LoraSettings.from_recipe(LORA, MultimodalFerTask.lora_targets))
        after = sum(p.numel() for n, p in wrapped.named_parameters() if p.requires_grad and "lora_" not in n)
        assert after == before

    def test_merging_keeps_the_logits(self):
        model = frozen_model()
        plain = logits(model)
        wrapped = add_lora(model, LoraSettings.from_recipe(LORA, MultimodalFerTask.lora_targets))
        assert torch.equal(logits(wrapped), plain)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        moved = logits(wrapped)
        assert not torch.allclose(moved, plain)
        torch.testing.assert_close(logits(wrapped.merge_and_unload()), moved, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"rang": 3}, "did you mean 'rank'"),
            ({"rank": 0}, "at least 1"),
            ({"targets": "("}, "not a regular expression"),
            ({"targets": "nothing"}, "match no linear layer"),
            ({"targets": r"classifier\.1"}, "freeze its part"),
            ({"save": "half"}, "Valid: adapter, merged"),
        ],
    )
    def test_what_cannot_be(self, fields, message):
        with pytest.raises(RecipeError, match=message):
            add_lora(frozen_model(), LoraSettings.from_recipe(fields, MultimodalFerTask.lora_targets))

    def test_loose_parameters_beside_targets(self):
        module = torch.nn.Module()
        module.layer, module.scale = torch.nn.Linear(2, 2), torch.nn.Parameter(torch.ones(1))
        with pytest.raises(RecipeError, match="scale"):
            list(trained_modules(module, "", {"layer"}))


def test_merged_by_default(recipe, tmp_path, backbones):
    main([recipe()])
    out = tmp_path / "out"
    model = AutoModelForVideoClassification.from_pretrained(out)
    original = load_file(Path(backbones["fusion"], "model.safetensors"))
    name = "layers.0.conv.in_proj.weight"
    assert not torch.equal(model.model.fusion.state_dict()[name], original[f"model.{name}"].float())
    norm = "layers.0.operator_norm.weight"
    assert torch.equal(model.model.fusion.state_dict()[norm], original[f"model.{norm}"].float())
    assert not (out / "adapter_config.json").exists()
    checkpoint = sorted(out.glob("checkpoint-*"))[-1]
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert not any("fusion" in key and "lora_" not in key for key in saved)
    main([recipe(do_train=False, model_name_or_path=str(out), lora=None, output_dir=str(tmp_path / "again"))])
    assert metrics(tmp_path / "again")["test"]["loss"] == pytest.approx(metrics(out)["test"]["loss"], abs=1e-5)


def test_adapter_and_base_reload_to_the_same_logits(recipe, tmp_path, capsys):
    main([recipe(lora={**LORA, "save": "adapter"})])
    adapter = tmp_path / "out"
    main([recipe(output_dir=str(tmp_path / "merged"))])
    whole = AutoModelForVideoClassification.from_pretrained(tmp_path / "merged")
    loaded = load_adapter_model(str(adapter))
    assert not isinstance(loaded, PeftModel)
    torch.testing.assert_close(logits(loaded), logits(whole), rtol=1e-4, atol=1e-5)
    assert not (adapter / "model.safetensors").exists()
    main([recipe(do_train=False, model_name_or_path=str(adapter), output_dir=str(tmp_path / "again"))])
    assert metrics(tmp_path / "again")["test"]["loss"] == pytest.approx(metrics(adapter)["test"]["loss"], abs=1e-5)

    with pytest.raises(SystemExit):
        main(
            [recipe(lora={**LORA, "save": "adapter"}, model_name_or_path=str(adapter), output_dir=str(tmp_path / "2"))]
        )
    assert "holds adapters itself" in capsys.readouterr().err

    config = json.loads((adapter / "config.json").read_text())
    config["id2label"]["0"] = "bored"
    (adapter / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main([recipe(model_name_or_path=str(adapter), output_dir=str(tmp_path / "other"))])
    assert "lora save 'merged'" in capsys.readouterr().err


def test_an_adapter_whose_base_is_gone(recipe, tmp_path, backbones, capsys):
    own = save_backbones(tmp_path / "own")
    main(
        [
            recipe(
                lora={**LORA, "save": "adapter"},
                audio_backbone=own["audio"],
                fusion_backbone=own["fusion"],
                num_train_epochs=1,
            )
        ]
    )
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_adapter_model(str(tmp_path / "out"))


def test_an_adapter_without_a_base_is_refused_before_training(recipe, capsys):
    with pytest.raises(SystemExit):
        main([recipe(lora={**LORA, "save": "adapter"}, fusion_backbone=None, fusion_num_layers=None)])
    assert "fusion is frozen but came from no checkpoint" in capsys.readouterr().err


def test_resumed_run_equals_the_uninterrupted_one(recipe, tmp_path):
    main([recipe(load_best_model_at_end=False)])
    part = tmp_path / "part"
    shutil.copytree(sorted((tmp_path / "out").glob("checkpoint-*"))[0], part / "checkpoint-3")
    main([recipe(load_best_model_at_end=False, output_dir=str(part), resume_from_checkpoint="true")])
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", part))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_part_trains_from_its_epoch_on(recipe, tmp_path, backbones):
    main([recipe(lora=None, freeze=["fusion"], unfreeze={"audio": 1}, save_total_limit=None)])
    first, last = sorted((tmp_path / "out").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    original = load_file(Path(backbones["audio"], "model.safetensors"))
    names = [name for name in original if name.startswith("encoder.") and original[name].is_floating_point()]

    def same(folder: Path) -> bool:
        saved = load_file(folder / "model.safetensors")
        return all(torch.equal(saved[f"model.audio_{name}"], original[name]) for name in names)

    assert same(first)
    assert not same(last)
