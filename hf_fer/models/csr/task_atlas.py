"""A look through the training images: what each prototype is most similar to, and mean similarities."""

import html
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from .backbone_csr import feature_map
from .decoding_csr import load_image
from .modeling_csr import CsrForImageClassification

PICTURE = 160  # pixels, side of the pictures on the page
CONTEXT = 1.5  # cells shown around a patch on each side


@dataclass
class Survey:
    """
    Similarities of all training images to all prototypes.

    Args:
        similarities: Highest in each image, `(n, K, M)`.
        cells: Row and column of the cell where it is, `(n, K, M, 2)`.
        grid: Rows and columns of the feature map.
        present: Whether an image is labelled with a concept, `(n, K)`.
        images: Names as in the data's table, and their files.
        concepts: Names.
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
                        "image": self.images[best],
                        "box": [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows],
                        "similarity": round(float(self.similarities[best, k, m]), 6),
                        "shows_concept": bool(self.present[best, k]),
                    }
                )
        return entries

    def nearest(self) -> np.ndarray:
        """How many of the images with a concept are most similar to each of its prototypes, `(K, M)`."""
        best = self.similarities.argmax(axis=2)
        return np.stack(
            [
                np.bincount(best[self.present[:, k], k], minlength=self.similarities.shape[2])
                for k in range(best.shape[1])
            ]
        )


@torch.no_grad()
def survey(model: CsrForImageClassification, images: Dataset, batch_size: int) -> Survey:
    """
    Compare every training image with every prototype; each process takes a share, and all get the whole.

    Args:
        model: On its device.
        images: Training rows with the transform of evaluation, which gives `pixel_values`.
        batch_size: Images per forward pass.
    """
    state = PartialState()
    mine = range(state.process_index, len(images), state.num_processes)
    device, training = model.classifier.weight.device, model.training
    model.eval()
    found, grid = [], (0, 0)
    for start in range(0, len(mine), batch_size):
        indices = list(mine[start : start + batch_size])
        examples = [images[index] for index in indices]
        readable = [place for place, example in enumerate(examples) if example["pixel_values"] is not None]
        if not readable:
            continue
        pixels = torch.stack([examples[place]["pixel_values"] for place in readable]).to(device)
        maps = model.similarity_maps(feature_map(model.backbone, pixels)).float().cpu()
        grid = tuple(maps.shape[-2:])
        highest, place = maps.flatten(-2).max(dim=-1)
        cells = torch.stack([place // grid[1], place % grid[1]], dim=-1)
        found += [
            (indices[at], grid, *pair) for at, *pair in zip(readable, highest.numpy(), cells.numpy(), strict=True)
        ]
    model.train(training)
    found = sorted(gather_object(found), key=lambda entry: entry[0])
    chosen = [index for index, *_ in found]
    rows = images.with_format(None).select(chosen)
    return Survey(
        similarities=np.stack([highest for *_, highest, _ in found]),
        cells=np.stack([cells for *_, cells in found]),
        grid=found[0][1],
        present=np.array(rows["concept_labels"]) >= 0.5,
        images=list(rows["image"]),
        paths=list(rows["path"]),
        concepts=model.config.concepts,
    )


def crop(image: np.ndarray, box: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The patch of a box with its surroundings, and the whole image with the box drawn in; `uint8` RGB."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(share * side) for share, side in zip(box, (width, height, width, height), strict=True))
    pad_x, pad_y = round(CONTEXT * (x1 - x0)), round(CONTEXT * (y1 - y0))
    marked = cv2.rectangle(image.copy(), (x0, y0), (x1 - 1, y1 - 1), (255, 255, 0), max(1, width // 150))
    patch = marked[max(y0 - pad_y, 0) : y1 + pad_y, max(x0 - pad_x, 0) : x1 + pad_x]
    return patch, marked


def resized(image: np.ndarray) -> np.ndarray:
    """An image with its longer side at `PICTURE` pixels."""
    scale = PICTURE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Prototype atlas</title><style>
body {{ font: 15px sans-serif; margin: 2em; max-width: 110em }}
section {{ border-top: 1px solid #bbb; padding: 0.5em 0 }}
figure {{ display: inline-block; vertical-align: top; margin: 0.4em; width: 330px }}
figcaption {{ font-size: 13px; overflow-wrap: anywhere }}
.other {{ color: #b00 }}
.pruned {{ opacity: 0.4 }}
</style></head><body>
<h1>Prototype atlas</h1>
<p>Each prototype beside the training patch that is most similar to it: left the patch with its surroundings, right the
whole image. The yellow box is one cell of the feature map; the features of a cell also see what lies around it.
"Nearest" counts the training images with the concept that are nearer to this prototype than to the concept's others.
Red: the image is not labelled with the concept.</p>
{sections}
</body></html>
"""


def write_page(folder: Path, model: CsrForImageClassification, survey: Survey) -> None:
    """`index.html` and two PNGs per prototype."""
    folder.mkdir(parents=True, exist_ok=True)
    files = dict(zip(survey.images, survey.paths, strict=True))
    nearest, kept = survey.nearest(), model.kept.cpu()
    figures: dict[str, list[str]] = {name: [] for name in survey.concepts}
    for entry in model.config.atlas:
        k, m = survey.concepts.index(entry["concept"]), entry["prototype"]
        image = (load_image(files[entry["image"]]) * 255).round().astype(np.uint8)
        names = [f"{k:02d}_{m:02d}_{kind}.png" for kind in ("patch", "image")]
        for name, picture in zip(names, crop(image, entry["box"]), strict=True):
            cv2.imwrite(str(folder / name), cv2.cvtColor(resized(picture), cv2.COLOR_RGB2BGR))
        figures[entry["concept"]].append(figure(entry, names, int(nearest[k, m]), bool(kept[k, m])))
    sections = "\n".join(
        f"<section><h2>{html.escape(name)}</h2>\n{''.join(parts)}</section>" for name, parts in figures.items()
    )
    (folder / "index.html").write_text(PAGE.format(sections=sections), encoding="utf-8")


def figure(entry: dict, names: list[str], nearest: int, kept: bool) -> str:
    """One prototype as HTML."""
    pictures = "".join(f'<img src="{name}" alt="">' for name in names)
    source = html.escape(entry["image"])
    shows = "" if entry["shows_concept"] else ' <span class="other">without the concept</span>'
    caption = f"<b>{entry['prototype']}</b>{'' if kept else ' (pruned)'}: {source}{shows}<br>"
    caption += f"similarity {entry['similarity']:.3f}, nearest to {nearest} images"
    return f'<figure class="{"" if kept else "pruned"}">{pictures}<figcaption>{caption}</figcaption></figure>\n'
