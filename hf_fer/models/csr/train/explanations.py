"""A page of images with the model's answers and the reasons that the pipeline gives for them."""

import html
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_fer.data.skipped import SkippedFile

from ..decoding_csr import UnusableImageError
from ..pipeline_csr import ConceptImageClassificationPipeline
from .atlas import patch_name
from .pages import crop, load_pixels, picture, resized, start_folder, tag, write_html

SIDE = 320  # pixels, of the image and of the maps over it
CONCEPTS, PROTOTYPES = 3, 2  # shown of each image, and of each concept
PER_CLASS, IMAGES = 2, 12  # at most

INTRODUCTION = """Why the model answers as it does, for at most {images} images of the {split} split. They are chosen
in the order of the split, whether the answer is right or wrong: first each image whose classes have no image here
yet, then each whose classes have one. An image is shown with the {concepts} concepts that have the largest shares of
the logit, positive or negative, and a concept with its {prototypes} most similar prototypes that are not pruned.
Colour shows a concept's map, from its own lowest value (none) to its own highest (yellow); the score is the
probability that the model gives to the concept. The pictures of a prototype show the image with the cell of the map
where it was found, that cell with its surroundings, and the training patch that is most similar to the prototype.
Numbers are rounded."""


@dataclass
class ExplanationPage:
    """
    Writes `index.html` and its pictures.

    Args:
        folder: Folder of the page; its earlier contents are deleted.
        explain: The pipeline whose answers the page shows.
        atlas: Folder of the atlas with the prototypes' source patches, or `None` if this run wrote none.
        skipped_file: File that lists images which can no longer be read.
    """

    folder: Path
    explain: ConceptImageClassificationPipeline
    atlas: Path | None
    skipped_file: SkippedFile

    def write(self, split: str, rows: Dataset) -> None:
        """
        Write the page.

        Args:
            split: Name of the split.
            rows: Its rows in the order of the data, with `image`, `path` and `labels`.
        """
        start_folder(self.folder)
        config = self.explain.model.config
        names = [config.id2label[index] for index in range(config.num_labels)]
        classes = [true_classes(target, names) for target in rows["labels"]]
        sections = [
            self.section(f"{place:02d}", rows[index]["image"], rows[index]["path"], classes[index])
            for place, index in enumerate(choose(classes))
        ]
        numbers = {"images": IMAGES, "concepts": CONCEPTS, "prototypes": PROTOTYPES}
        write_html(self.folder / "index.html", "Explanations", INTRODUCTION.format(split=split, **numbers), sections)

    def section(self, stem: str, name: str, path: str, classes: list[str]) -> str:
        """One image as HTML, or a note where it can no longer be read."""
        title = f"<h2>{html.escape(name)}</h2>"
        try:
            answer, image = (
                self.explain(path, top_concepts=CONCEPTS),
                load_pixels(path, self.explain.processor.max_pixels),
            )
        except UnusableImageError as error:
            self.skipped_file.append([{"path": error.path, "reason": error.reason}])
            return f'<section>{title}\n<p class="other">Skipped: it can no longer be read.</p></section>'
        shown = picture(self.folder / f"{stem}.jpg", resized(image, SIDE), f"The image {name}")
        caption = verdict(answer, classes, self.explain.model.config.problem_type == "multi_label_classification")
        concepts = [
            self.concept(f"{stem}_{number}", image, concept) for number, concept in enumerate(answer["concepts"])
        ]
        figure = f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
        return "\n".join([f"<section>{title}", figure, *concepts, sums(answer), "</section>"])

    def concept(self, stem: str, image: np.ndarray, concept: dict[str, Any]) -> str:
        """One concept's map and its most similar prototypes."""
        name = concept["concept"]
        small = resized(image, SIDE)
        heat = np.asarray(self.explain.overlay(small, concept["map"]))
        shown = picture(self.folder / f"{stem}_map.jpg", heat, f"Map of {name} over the image")
        ranked = sorted(concept["prototypes"], key=lambda prototype: -prototype["similarity"])
        figures = [self.prototype(stem, image, name, prototype) for prototype in ranked[:PROTOTYPES]]
        caption = f"score {concept['score']:.4f}, share {concept['share']:+.4f}"
        if rest := ranked[PROTOTYPES:]:
            caption += f", including {sum(prototype['share'] for prototype in rest):+.4f} of prototypes not shown"
        figure = f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
        return "\n".join([f"<h3>{html.escape(name)}</h3>", figure, *figures])

    def prototype(self, stem: str, image: np.ndarray, concept: str, prototype: dict[str, Any]) -> str:
        """Where a prototype was found, and the training patch behind it."""
        m, source = prototype["prototype"], prototype["source"]
        height, width = image.shape[:2]
        box = [place / side for place, side in zip(prototype["box"], (width, height, width, height), strict=True)]
        patch, marked = (resized(part) for part in crop(image, box))
        pictures = [
            picture(self.folder / f"{stem}_{m:02d}_place.jpg", marked, f"Where prototype {m} of {concept} was found"),
            picture(self.folder / f"{stem}_{m:02d}_patch.jpg", patch, f"What was found there of {concept}"),
        ]
        caption = (
            f"prototype {m}: similarity {prototype['similarity']:.4f}, share {prototype['share']:+.4f}<br>source: "
        )
        if source is None:
            caption += "not known"
        else:
            found = self.source_patch(concept, m)
            pictures += [tag(found, f"Source of prototype {m} of {concept}")] if found else []
            caption += "see the atlas" if found else "in the atlas of the run that trained the prototypes"
        return f'<figure class="three">{"".join(pictures)}<figcaption>{caption}</figcaption></figure>'

    def source_patch(self, concept: str, m: int) -> Path | None:
        """The atlas' picture of a prototype, copied beside the page, or `None` where there is none."""
        name = patch_name(self.explain.model.config.concepts.index(concept), m)
        if self.atlas is None or not (self.atlas / name).is_file():
            return None
        return Path(shutil.copyfile(self.atlas / name, self.folder / f"source_{name}"))


def true_classes(target: int | list[float], names: list[str]) -> list[str]:
    """Names of a row's classes: one, or any number in multi-label data."""
    if isinstance(target, list):
        return [name for name, share in zip(names, target, strict=True) if share >= 0.5]
    return [names[target]]


def choose(classes: list[list[str]]) -> list[int]:
    """
    Choose images by the rule that the page states, which does not depend on the answers.

    Args:
        classes: Class names of each image; images without a class count as a class of their own.

    Returns:
        Indices into `classes`, ascending.
    """
    counts: Counter[str] = Counter()
    chosen: list[int] = []
    for limit in range(1, PER_CLASS + 1):
        for index, own in enumerate(classes):
            own = own or [""]
            if index not in chosen and len(chosen) < IMAGES and all(counts[name] < limit for name in own):
                chosen.append(index)
                counts.update(own)
    return sorted(chosen)


def verdict(answer: dict[str, Any], classes: list[str], multi_label: bool) -> str:
    """True and predicted classes with their scores."""
    scores = {entry["label"]: entry["score"] for entry in answer["labels"]}
    predicted = [name for name in scores if scores[name] >= 0.5] if multi_label else [answer["explained"]]
    true, seen = (
        ", ".join(f"{html.escape(name)} ({scores[name]:.4f})" for name in names) or "none"
        for names in (classes, predicted)
    )
    wrong = "" if set(classes) == set(predicted) else ' <span class="other">(wrong)</span>'
    return f"true: {true}<br>predicted: {seen}{wrong}"


def sums(answer: dict[str, Any]) -> str:
    """An HTML table of the shares that sum to the logit."""
    parts = [(concept["concept"], concept["share"]) for concept in answer["concepts"]]
    parts += [("other concepts", answer["other_concepts"]), ("bias", answer["bias"]), ("logit", answer["logit"])]
    rows = "".join(f'<tr><th scope="row">{html.escape(name)}</th><td>{value:+.4f}</td></tr>' for name, value in parts)
    return f"<table><caption>Shares of the logit of {html.escape(answer['explained'])}</caption>{rows}</table>"
