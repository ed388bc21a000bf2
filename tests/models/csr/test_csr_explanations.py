"""csr for people to look at: maps laid over images, and the page of explanations."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import warm
from datasets import Dataset
from matplotlib import colormaps
from models.csr.test_csr_decoding import RAMP, write_dicom
from models.csr.test_csr_pipeline import CONCEPTS, IMAGE, save_model
from PIL import Image
from transformers import pipeline

from hf_fer.data.skipped import SkippedFile
from hf_fer.models.csr import overlay
from hf_fer.models.csr.train.atlas import patch_name
from hf_fer.models.csr.train.explanations import ExplanationPage, choose
from hf_fer.models.csr.train.pages import crop

GREY = np.full((40, 60, 3), 128, dtype=np.uint8)
NAMES = ["a<b", "second", "third"]


def change(image: Image.Image, before: np.ndarray = GREY) -> np.ndarray:
    """How far each pixel is from the image that lies below, `(height, width)`."""
    return np.linalg.norm(np.asarray(image).astype(float) - before, axis=-1)


class TestOverlay:
    def test_size_and_mode(self):
        drawn = overlay(GREY, np.random.default_rng(0).normal(size=(7, 5)))
        assert drawn.size == (60, 40)
        assert drawn.mode == "RGB"

    def test_the_highest_place_has_the_strongest_colour(self):
        """Opposite of it the image is bare; cells are 10 x 15 pixels."""
        heat = np.random.default_rng(1).uniform(-3, 2, (4, 4))
        heat[2, 1], heat[0, 3] = 5, -9
        changed = change(overlay(GREY, heat))
        row, column = np.unravel_index(changed.argmax(), changed.shape)
        assert (row // 10, column // 15) == (2, 1)
        assert changed[0:5, 53:].max() == 0

    def test_the_colour_is_that_of_the_map(self):
        for name in ("viridis", "inferno"):
            drawn = overlay(GREY, np.array([[0, 1]]), opacity=1.0, color_map=name)
            top = np.array(colormaps[name](1.0, bytes=True)[:3], dtype=float)
            np.testing.assert_array_equal(np.asarray(drawn)[20, 59], top)
            half = overlay(GREY, np.array([[0, 1]]), opacity=0.5, color_map=name)
            np.testing.assert_allclose(np.asarray(half)[20, 59], (top + 128) / 2, atol=1)

    def test_enlarged_by_bilinear_interpolation(self):
        """Linear between the middles of two cells, and squared, because colour and opacity both grow."""
        drawn = overlay(np.zeros((4, 200, 3), np.uint8), np.array([[0, 1]]), 1.0, "gray")
        shown = np.asarray(drawn)[0, :, 0] / 255
        linear = np.clip((np.arange(200) + 0.5 - 50) / 100, 0, 1)
        np.testing.assert_allclose(shown, linear * linear, atol=0.02)

    @pytest.mark.parametrize("heat", [np.zeros((4, 4)), np.full((3, 5), -7.5), np.array([[3.0]])])
    def test_a_map_that_points_nowhere(self, heat):
        assert not change(overlay(GREY, heat)).any()

    def test_extreme_values(self):
        heat = np.zeros((4, 4))
        heat[1, 1] = 1e30
        changed = change(overlay(GREY, heat))
        assert changed[15, 22] == changed.max() > 0
        assert changed[38, 58] == 0

    def test_files_pictures_and_grey_arrays(self, tmp_path):
        heat = np.eye(3)
        path = write_dicom(tmp_path / "a.dcm", RAMP)
        assert overlay(path, heat).size == (64, 64)
        shown = [np.asarray(overlay(image, heat)) for image in (GREY, Image.fromarray(GREY), GREY[..., 0])]
        assert all((each == shown[0]).all() for each in shown)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"concept_map": np.zeros((1, 4, 4))}, "shape"),
            ({"concept_map": np.zeros((0, 4))}, "shape"),
            ({"concept_map": np.array([[0, np.nan]])}, "finite"),
            ({"opacity": 1.5}, "opacity must be from 0 to 1"),
            ({"color_map": "viridus"}, "'viridus'"),
            ({"image": np.zeros((4, 4, 2))}, "Image arrays"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            overlay(**{"image": GREY, "concept_map": np.eye(3), **options})

    def test_comes_with_a_saved_pipeline(self, tmp_path):
        """Loaded where hf_fer is not installed."""
        explain = pipeline("concept-image-classification", model=str(save_model(tmp_path / "model")))
        explain.save_pretrained(tmp_path / "saved")
        explain.processor.save_pretrained(tmp_path / "saved")
        Image.fromarray(IMAGE).save(tmp_path / "image.png")
        script = (
            "import sys; sys.modules['hf_fer'] = None\n"
            "from transformers import pipeline\n"
            f"folder, image = {str(tmp_path / 'saved')!r}, {str(tmp_path / 'image.png')!r}\n"
            "explain = pipeline('concept-image-classification', model=folder, trust_remote_code=True)\n"
            "concept = explain(image)['concepts'][0]\n"
            f"explain.overlay(image, concept['map']).save({str(tmp_path / 'drawn.png')!r})"
        )
        subprocess.run([warm.python("hugging_face"), "-c", script], check=True, capture_output=True)
        expected = explain.overlay(IMAGE, explain(IMAGE)["concepts"][0]["map"])
        drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
        np.testing.assert_allclose(drawn, np.asarray(expected), atol=1)


class Page(HTMLParser):
    """What a page shows: pictures, headings, captions and rows of tables, by section."""

    def __init__(self, path: Path):
        super().__init__()
        self.folder = path.parent
        self.sections: list[dict[str, list]] = []
        self.pictures: list[dict[str, str]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag in ("br", "meta"):
            return
        if tag == "img":
            self.pictures.append(dict(attrs))
            return
        self.open.append(tag)
        if tag == "section":
            self.sections.append({"h2": [], "h3": [], "figcaption": [], "th": [], "td": [], "caption": [], "p": []})
        elif self.sections and tag in self.sections[-1]:
            self.sections[-1][tag].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = next((tag for tag in reversed(self.open) if self.sections and tag in self.sections[-1]), None)
        if inside and "section" in self.open:
            self.sections[-1][inside][-1] += data


def write_page(folder: Path, labels: list, atlas: Path | None = None, bad: int | None = None, **fields) -> tuple:
    """The page of a small model that was not trained, on noise; the pipeline, and the rows."""
    rng = np.random.default_rng(0)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    explain = pipeline("concept-image-classification", model=str(save_model(folder / "model", **names, **fields)))
    rows = []
    for index, label in enumerate(labels):
        path = folder / f"image {index}.png"
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
        if index == bad:
            path.write_bytes(b"no image")
        rows.append({"image": f"<b>{index}</b> & co", "path": str(path), "labels": label})
    page = folder / "explanations"
    ExplanationPage(page, explain, atlas, SkippedFile(folder / "skipped.jsonl")).write(
        "validation", Dataset.from_list(rows)
    )
    return Page(page / "index.html"), explain, rows


def number(text: str, name: str) -> float:
    return float(re.search(rf"{name} ([+-]?\d+\.\d+)", text)[1])


class TestPage:
    @pytest.fixture(scope="class")
    def written(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("page")
        (folder / "atlas").mkdir()
        Image.fromarray(GREY).save(folder / "atlas" / patch_name(CONCEPTS.index("ring"), 1))
        return write_page(folder, [0, 0, 0, 1, 2], folder / "atlas")

    def test_every_picture_is_there_and_described(self, written):
        page, *_ = written
        assert len(page.pictures) >= 4 * (1 + 3 + 3 * 2 * 2)
        assert all(picture["alt"] for picture in page.pictures)
        linked = {picture["src"] for picture in page.pictures}
        assert linked == {path.name for path in page.folder.iterdir()} - {"index.html"}
        for name in linked:
            with Image.open(page.folder / name) as picture:
                picture.verify()

    def test_the_rule(self, written):
        page, *_ = written
        assert [section["h2"] for section in page.sections] == [[f"<b>{index}</b> & co"] for index in (0, 1, 3, 4)]

    def test_numbers_are_the_pipeline_s(self, written):
        page, explain, rows = written
        for section, index in zip(page.sections, (0, 1, 3, 4), strict=True):
            answer = explain(rows[index]["path"], top_concepts=3)
            scores = {entry["label"]: entry["score"] for entry in answer["labels"]}
            true, best = NAMES[rows[index]["labels"]], answer["explained"]
            verdict, *captions = section["figcaption"]
            assert verdict.startswith(f"true: {true} ({scores[true]:.4f})predicted: {best} ({scores[best]:.4f})")
            assert verdict.endswith("(wrong)") == (true != best)
            assert section["caption"] == [f"Shares of the logit of {best}"]
            assert section["h3"] == [concept["concept"] for concept in answer["concepts"]]
            shown = iter(captions)
            for concept in answer["concepts"]:
                caption = next(shown)
                assert number(caption, "score") == pytest.approx(concept["score"], abs=6e-5)
                assert number(caption, "share") == pytest.approx(concept["share"], abs=6e-5)
                ranked = sorted(concept["prototypes"], key=lambda prototype: prototype["similarity"])[::-1]
                shares = [number(caption, "including")]
                for prototype in ranked[:2]:
                    caption = next(shown)
                    assert caption.startswith(f"prototype {prototype['prototype']}: ")
                    assert number(caption, "similarity") == pytest.approx(prototype["similarity"], abs=6e-5)
                    assert number(caption, "share") == pytest.approx(prototype["share"], abs=6e-5)
                    assert caption.endswith("source: see the atlas" if prototype["source"] else "source: not known")
                    shares.append(number(caption, "share"))
                assert sum(shares) == pytest.approx(concept["share"], abs=2e-4)
            assert next(shown, None) is None

    def test_shares_sum_to_the_logit(self, written):
        page, explain, rows = written
        for section, index in zip(page.sections, (0, 1, 3, 4), strict=True):
            assert section["th"] == [*section["h3"], "other concepts", "bias", "logit"]
            *shares, logit = map(float, section["td"])
            assert logit == pytest.approx(explain(rows[index]["path"])["logit"], abs=6e-5)
            assert sum(shares) == pytest.approx(logit, abs=5e-4)
            assert any(abs(share) > 1e-3 for share in shares)

    def test_the_map_is_the_overlay_of_the_pipeline_s(self, written):
        page, explain, rows = written
        concept = explain(rows[0]["path"])["concepts"][0]
        shown = np.asarray(Image.open(page.folder / "00_0_map.jpg")).astype(float)
        assert shown.shape == (213, 320, 3)
        image = Image.open(rows[0]["path"]).resize((320, 213), Image.Resampling.BICUBIC)
        others = [other["map"] for other in explain(rows[0]["path"])["concepts"][1:]]
        errors = [np.abs(shown - np.asarray(overlay(image, heat))).mean() for heat in (concept["map"], *others)]
        assert errors[0] == min(errors)
        assert errors[0] < 10

    def test_the_source_patch_is_the_atlas_s(self, written):
        page, *_ = written
        sources = [picture for picture in page.pictures if picture["src"].startswith("source_")]
        named = [
            text
            for section in page.sections
            for text in section["figcaption"]
            if text.endswith("source: see the atlas")
        ]
        assert len(sources) == len(named) > 0
        name = patch_name(CONCEPTS.index("ring"), 1)
        assert (page.folder / f"source_{name}").read_bytes() == (page.folder.parent / "atlas" / name).read_bytes()

    def test_without_an_atlas_of_this_run(self, tmp_path):
        page, *_ = write_page(tmp_path, [0, 0, 0, 1, 2])
        assert not [picture for picture in page.pictures if picture["src"].startswith("source_")]
        captions = [text for section in page.sections for text in section["figcaption"] if "source: " in text]
        with_entry = [text for text in captions if not text.endswith("source: not known")]
        assert with_entry
        assert all(text.endswith("source: in the atlas of the run that trained the prototypes") for text in with_entry)

    def test_an_image_that_became_unreadable(self, tmp_path):
        page, *_ = write_page(tmp_path, [0, 1], bad=0)
        assert page.sections[0]["h2"] == ["<b>0</b> & co"]
        assert page.sections[0]["p"] == ["Skipped: it can no longer be read."]
        assert len(page.sections[1]["td"]) == 6
        assert [entry["path"] for entry in SkippedFile(tmp_path / "skipped.jsonl").read()] == [
            str(tmp_path / "image 0.png")
        ]
        assert str(tmp_path) not in (page.folder / "index.html").read_text()

    def test_several_classes(self, tmp_path):
        fields = {"problem_type": "multi_label_classification"}
        page, *_ = write_page(tmp_path, [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], **fields)
        first, second = (section["figcaption"][0] for section in page.sections)
        assert re.match(r"true: a<b \(0\.\d{4}\), third \(0\.\d{4}\)predicted: ", first)
        assert second.startswith("true: nonepredicted: ")

    def test_an_earlier_page_goes(self, tmp_path):
        (tmp_path / "explanations").mkdir()
        (tmp_path / "explanations" / "old.jpg").write_bytes(b"")
        page, *_ = write_page(tmp_path, [0])
        assert not (page.folder / "old.jpg").exists()


class TestChoice:
    def test_each_class_first_once_and_then_twice(self):
        assert choose([["a"], ["a"], ["a"], ["b"], ["b"], ["c"]]) == [0, 1, 3, 4, 5]

    def test_at_most_twelve_of_as_many_classes_as_there_can_be(self):
        assert choose([[name] for name in "aabbccddeeffgghh"]) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14]

    def test_an_image_counts_for_each_of_its_classes_and_for_none(self):
        assert choose([["a", "b"], ["b"], ["b", "c"], ["a"], [], [], []]) == [0, 1, 3, 4, 5]


def test_a_cell_smaller_than_a_pixel_has_a_patch():
    """An image of fewer pixels than the map has cells."""
    for box in ([0.9, 0.9, 1, 1], [0, 0, 0.1, 0.1], [0.4, 0.5, 0.5, 0.6]):
        patch, marked = crop(np.zeros((3, 2, 3), np.uint8), box)
        assert patch.size
        assert marked.any()
