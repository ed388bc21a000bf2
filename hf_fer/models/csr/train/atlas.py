"""Compares training images with prototypes: the most similar patch of each prototype, and mean similarities."""

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from ..backbone_csr import feature_map
from ..decoding_csr import MAX_PIXELS, UnusableImageError
from ..modeling_csr import CsrForImageClassification
from .pages import crop, load_pixels, picture, resized, start_folder, write_html
from .passes import look_over


@dataclass
class Survey:
    """
    Similarities of all training images to all prototypes.

    Args:
        similarities: Highest similarity in each image, `(n, K, M)`.
        cells: Row and column of the cell with the highest similarity, `(n, K, M, 2)`.
        grid: Rows and columns of the feature map.
        present: Whether an image is labelled with a concept, `(n, K)`.
        images, paths: Names of the images in the data's table, and their files.
        concepts: Names of the concepts.
    """

    similarities: np.ndarray
    cells: np.ndarray
    grid: tuple[int, int]
    present: np.ndarray
    images: list[str]
    paths: list[str]
    concepts: list[str]

    def means(self) -> dict[str, list[list[float]]]:
        """Mean similarities `(K, M)` over all images, and over those with and without the concept."""
        shows = self.present[..., None]

        def mean(weights: np.ndarray) -> list[list[float]]:
            total = np.maximum(weights.sum(axis=0), 1)
            return ((self.similarities * weights).sum(axis=0) / total).round(6).tolist()

        return {"all": mean(np.ones_like(shows)), "present": mean(shows), "absent": mean(~shows)}

    def atlas(self) -> list[dict]:
        """One entry per prototype; see `CsrConfig`. The first of equally similar images counts."""
        rows, columns = self.grid
        entries = []
        for k, concept in enumerate(self.concepts):
            for m in range(self.similarities.shape[2]):
                best = int(self.similarities[:, k, m].argmax())
                row, column = self.cells[best, k, m].tolist()
                entries.append(
                    {
                        "concept": concept,
                        "prototype": m,
                        "box": [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows],
                        "similarity": round(float(self.similarities[best, k, m]), 6),
                        "shows_concept": bool(self.present[best, k]),
                    }
                )
        return entries

    def sources(self) -> list[int]:
        """Index of the image that each entry of `atlas` is from, in the same order."""
        return self.similarities.argmax(axis=0).flatten().tolist()

    def nearest(self) -> np.ndarray:
        """How many of the images with a concept are most similar to each of its prototypes, `(K, M)`."""
        best = self.similarities.argmax(axis=2)
        return np.stack(
            [
                np.bincount(best[self.present[:, k], k], minlength=self.similarities.shape[2])
                for k in range(best.shape[1])
            ]
        )


def survey(model: CsrForImageClassification, images: Dataset, batch_size: int) -> Survey:
    """
    Compare every training image with every prototype; see `look_over`.

    Args:
        model: On its device.
        images: Training rows with the transform of evaluation, which gives `pixel_values`.
        batch_size: Images per forward pass.
    """

    def compare(pixels: torch.Tensor) -> list[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
        maps = model.similarity_maps(feature_map(model.backbone, pixels)).float().cpu()
        grid = tuple(maps.shape[-2:])
        highest, place = maps.flatten(-2).max(dim=-1)
        cells = torch.stack([place // grid[1], place % grid[1]], dim=-1)
        return [(grid, *pair) for pair in zip(highest.numpy(), cells.numpy(), strict=True)]

    indices, found = zip(*look_over(model, images, batch_size, compare), strict=True)
    grids, highest, cells = zip(*found, strict=True)
    rows = images.with_format(None).select(indices)
    return Survey(
        similarities=np.stack(highest),
        cells=np.stack(cells),
        grid=grids[0],
        present=np.array(rows["concept_labels"]) >= 0.5,
        images=list(rows["image"]),
        paths=list(rows["path"]),
        concepts=model.config.concepts,
    )


INTRODUCTION = """Each prototype beside the training patch that is most similar to it: left the patch with its
surroundings, right the whole image. The yellow box is one cell of the feature map; the features of a cell also see
what lies around it. "Nearest" counts the training images with the concept that are nearer to this prototype than to
the concept's others. Red: the image is not labelled with the concept."""


def patch_name(concept: int, prototype: int) -> str:
    """File of the picture of a prototype's patch."""
    return f"{concept:02d}_{prototype:02d}_patch.png"


def write_page(folder: Path, model: CsrForImageClassification, survey: Survey, max_pixels: int = MAX_PIXELS) -> None:
    """Writes `index.html`, two PNGs per prototype (none where its image cannot be read) and `sources.csv`."""
    start_folder(folder)
    nearest, kept = survey.nearest(), model.kept.cpu()
    figures: dict[str, list[str]] = {name: [] for name in survey.concepts}
    for entry, source in zip(model.config.atlas, survey.sources(), strict=True):
        k, m = survey.concepts.index(entry["concept"]), entry["prototype"]
        pictures = source_pictures(folder / patch_name(k, m), survey.paths[source], entry, max_pixels)
        figures[entry["concept"]].append(
            figure(entry, survey.images[source], pictures, int(nearest[k, m]), bool(kept[k, m]))
        )
    sections = [
        f"<section><h2>{html.escape(name)}</h2>\n{''.join(parts)}</section>" for name, parts in figures.items()
    ]
    names = [survey.images[source] for source in survey.sources()]
    columns = ["concept", "prototype", "image"]
    pd.DataFrame(model.config.atlas).assign(image=names)[columns].to_csv(folder / "sources.csv", index=False)
    write_html(folder / "index.html", "Prototype atlas", INTRODUCTION, sections)


def source_pictures(patch_file: Path, path: str, entry: dict, max_pixels: int) -> str:
    """Writes pictures of a prototype's patch and its image to `patch_file` and beside it; returns their HTML."""
    try:
        patch, image = (resized(part) for part in crop(load_pixels(path, max_pixels), entry["box"]))
    except UnusableImageError:
        return '<span class="other">can no longer be read:</span> '
    image_file = patch_file.with_name(patch_file.name.replace("patch", "image"))
    what = f"of prototype {entry['prototype']} of {entry['concept']}"
    return picture(patch_file, patch, f"Patch {what}") + picture(image_file, image, f"Image {what}")


def figure(entry: dict, image: str, pictures: str, nearest: int, kept: bool) -> str:
    """One prototype as HTML, with the name of the image that it is from."""
    source = html.escape(image)
    shows = "" if entry["shows_concept"] else ' <span class="other">without the concept</span>'
    caption = f"<b>{entry['prototype']}</b>{'' if kept else ' (pruned)'}: {source}{shows}<br>"
    caption += f"similarity {entry['similarity']:.3f}, nearest to {nearest} images"
    return f'<figure class="{"" if kept else "pruned"}">{pictures}<figcaption>{caption}</figcaption></figure>\n'
