"""`pipeline("concept-image-classification")`: explanations that add up, corrections, and loading without hf_fer."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
import warm
from models.csr.test_csr_decoding import RAMP, write_dicom
from models.suite_csr import config
from transformers import ViTImageProcessor, pipeline

from hf_fer.models.csr import CsrForImageClassification, CsrProcessor
from hf_fer.reporting.sharing import add_pipeline

CONCEPTS = ["disc", "ring", "cross", "stripes"]
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def save_model(folder, **fields):
    torch.manual_seed(0)
    means = {kind: [[value] * 3] * 4 for kind, value in (("all", 0.1), ("present", 0.6), ("absent", -0.1))}
    box = {"concept": "ring", "prototype": 1, "box": [0, 0, 0.25, 0.25], "similarity": 0.9}
    given = {"stage": 3, "concepts": CONCEPTS, "similarity_means": means, "atlas": [box], **fields}
    CsrForImageClassification(config("resnet50", **given)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CsrProcessor(ViTImageProcessor(size=size, do_rescale=False)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("csr"))


@pytest.fixture(scope="module")
def explain(folder):
    return pipeline("concept-image-classification", model=str(folder))


def score(answer: dict, label: str) -> float:
    return next(entry["score"] for entry in answer["labels"] if entry["label"] == label)


class TestExplanation:
    def test_shares_sum_to_the_logit(self, explain):
        answer = explain(IMAGE)
        assert len(answer["concepts"]) == 4
        shares = [prototype["share"] for concept in answer["concepts"] for prototype in concept["prototypes"]]
        assert answer["bias"] + sum(shares) == pytest.approx(answer["logit"], abs=1e-5)
        assert sum(entry["score"] for entry in answer["labels"]) == pytest.approx(1)
        assert answer["explained"] == answer["labels"][0]["label"]

    def test_top_concepts_by_share(self, explain):
        whole, answer = explain(IMAGE), explain(IMAGE, top_concepts=2, top_k=1)
        assert [concept["concept"] for concept in answer["concepts"]] == [c["concept"] for c in whole["concepts"][:2]]
        sizes = [abs(concept["share"]) for concept in whole["concepts"]]
        assert sizes == sorted(sizes, reverse=True)
        total = answer["bias"] + answer["other_concepts"] + sum(concept["share"] for concept in answer["concepts"])
        assert total == pytest.approx(answer["logit"], abs=1e-5)
        assert len(answer["labels"]) == 1

    def test_maps_boxes_and_sources(self, explain):
        answer = explain(IMAGE)
        for concept in answer["concepts"]:
            assert concept["map"].shape == (4, 4)
            for prototype in concept["prototypes"]:
                x0, y0, x1, y1 = prototype["box"]
                assert (x1 - x0, y1 - y0) == pytest.approx((15, 10))
                assert -1e-4 <= x0 < x1 <= 60.001
                assert -1e-4 <= y0 < y1 <= 40.001
                named = concept["concept"] == "ring" and prototype["prototype"] == 1
                assert (prototype["source"] is not None) == named

    def test_a_list_in_batches_and_dicom(self, explain, tmp_path):
        path = write_dicom(tmp_path / "a.dcm", RAMP)
        together = explain([IMAGE, str(path), IMAGE[:20]], batch_size=2)
        for image, answer in zip((IMAGE, str(path), IMAGE[:20]), together, strict=True):
            assert explain(image)["logit"] == pytest.approx(answer["logit"], abs=1e-5)

    def test_pruned_prototypes_are_not_listed(self, tmp_path):
        explain = pipeline(
            "concept-image-classification", model=str(save_model(tmp_path, pruned_prototypes=[["ring", 1]]))
        )
        ring = next(concept for concept in explain(IMAGE)["concepts"] if concept["concept"] == "ring")
        assert [prototype["prototype"] for prototype in ring["prototypes"]] in ([0, 2], [2, 0])


class TestCorrections:
    @pytest.mark.parametrize(("replacement", "value"), [("zero", 0.0), ("mean", 0.1), ("absent", -0.1)])
    def test_reject(self, explain, replacement, value):
        answer = explain(IMAGE, reject=["ring"], replacement=replacement)
        ring = next(concept for concept in answer["concepts"] if concept["concept"] == "ring")
        assert [prototype["similarity"] for prototype in ring["prototypes"]] == pytest.approx([value] * 3, abs=1e-6)
        shares = [concept["share"] for concept in answer["concepts"]]
        assert answer["bias"] + sum(shares) == pytest.approx(answer["logit"], abs=1e-5)

    def test_confirm(self, explain):
        answer = explain(IMAGE, confirm=["cross"])
        cross = next(concept for concept in answer["concepts"] if concept["concept"] == "cross")
        assert {round(prototype["similarity"], 6) for prototype in cross["prototypes"]} == {0.6}

    def test_positive_box_in_pixels(self, explain):
        """With nothing outside it, every match lies in the box, whatever the size of the image."""
        answer = explain(IMAGE, positive_boxes=[(0, 0, 30, 20)], alpha=0.0)
        for concept in answer["concepts"]:
            for prototype in concept["prototypes"]:
                if prototype["similarity"] > 0:
                    assert prototype["box"][2] <= 30.001
                    assert prototype["box"][3] <= 20.001

    def test_negative_box_over_everything(self, explain):
        answer = explain(IMAGE, negative_boxes=[(0, 0, 60, 40)])
        assert answer["logit"] == pytest.approx(answer["bias"], abs=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"reject": ["dics"]}, "Unknown concept 'dics'; did you mean 'disc'"),
            ({"reject": ["disc"], "confirm": ["disc"]}, "both rejected and confirmed"),
            ({"reject": ["disc"], "replacement": "median"}, "replacement must be one of"),
            ({"positive_boxes": [(0, 0, 61, 10)]}, "does not lie in the image"),
            ({"top_concepts": 0}, "at least 1"),
        ],
    )
    def test_bad_corrections(self, explain, options, message):
        with pytest.raises(ValueError, match=message):
            explain(IMAGE, **options)

    def test_an_earlier_stage_is_refused(self, tmp_path):
        explain = pipeline("concept-image-classification", model=str(save_model(tmp_path, stage=2)))
        with pytest.raises(ValueError, match="stage-2 checkpoint, whose classifier has not been trained"):
            explain(IMAGE)


def test_a_saved_folder_loads_without_hf_fer(folder, explain, tmp_path):
    """Model, processor and pipeline, as `push_to_hub` carries them."""
    carried = tmp_path / "carried"
    shutil.copytree(folder, carried)
    add_pipeline(carried, "concept-image-classification")
    script = (
        "import sys; sys.modules['hf_fer'] = None\n"
        "import json, torch\n"
        "from transformers import AutoModelForImageClassification, AutoProcessor, pipeline\n"
        f"model = AutoModelForImageClassification.from_pretrained({str(carried)!r}, trust_remote_code=True).eval()\n"
        f"processor = AutoProcessor.from_pretrained({str(carried)!r}, trust_remote_code=True)\n"
        f"inputs = processor({str(write_dicom(tmp_path / 'a.dcm', RAMP))!r})\n"
        "with torch.no_grad():\n"
        f"    torch.save(model(**inputs).logits, {str(tmp_path / 'logits.pt')!r})\n"
        f"explain = pipeline('concept-image-classification', model={str(carried)!r}, trust_remote_code=True)\n"
        f"print(json.dumps(explain({str(tmp_path / 'a.dcm')!r})['labels']))\n"
    )
    done = subprocess.run([warm.python("hugging_face"), "-c", script], check=True, capture_output=True, text=True)
    model = CsrForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**CsrProcessor.from_pretrained(folder)(tmp_path / "a.dcm")).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits, rtol=0, atol=0)
    assert json.loads(done.stdout.splitlines()[-1]) == explain(str(tmp_path / "a.dcm"))["labels"]
