"""A small synthetic data set: its concepts are shapes with known boxes, and an image's class follows from them.

Run `python -m hf_fer.models.csr.train.demo_images OUT_DIR` to write it to a folder.
"""

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

DEMO_IMAGES_VERSION = 1
DEMO_IMAGES_NOTICE = (
    "This data set is synthetic: its images are shapes drawn by code, and figures measured on it say nothing about "
    "medical images."
)
SIZE = 96  # pixels
CELLS = 3  # shapes lie on a grid of CELLS x CELLS, at most one in a cell
CONCEPTS = ("disc", "ring", "cross", "stripes", "dots", "triangle")
CLASSES = ("crossed", "disc_only", "striped", "plain")
PATIENTS, IMAGES_PER_PATIENT = 48, 10
RADIUS = (9, 13)  # pixels

Rng = np.random.Generator
Box = tuple[float, float, float, float]


def class_of(present: Collection[str]) -> str:
    """The class that follows from an image's concepts; ring, dots and triangle do not matter."""
    if "disc" in present:
        return "crossed" if "cross" in present else "disc_only"
    return "striped" if "stripes" in present else "plain"


def _disc(image: np.ndarray, x: int, y: int, radius: int, color: tuple) -> None:
    cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)


def _ring(image: np.ndarray, x: int, y: int, radius: int, color: tuple) -> None:
    cv2.circle(image, (x, y), radius - 2, color, 3, cv2.LINE_AA)


def _cross(image: np.ndarray, x: int, y: int, radius: int, color: tuple) -> None:
    cv2.line(image, (x - radius, y), (x + radius, y), color, 4, cv2.LINE_AA)
    cv2.line(image, (x, y - radius), (x, y + radius), color, 4, cv2.LINE_AA)


def _stripes(image: np.ndarray, x: int, y: int, radius: int, color: tuple) -> None:
    for offset in range(-radius, radius + 1, 6):
        cv2.line(image, (x - radius, y + offset), (x + radius, y + offset), color, 2, cv2.LINE_AA)


def _dots(image: np.ndarray, x: int, y: int, radius: int, color: tuple) -> None:
    step = round(radius * 0.7)
    for dx in (-step, 0, step):
        for dy in (-step, 0, step):
            cv2.circle(image, (x + dx, y + dy), 2, color, -1, cv2.LINE_AA)


def _triangle(image: np.ndarray, x: int, y: int, radius: int, color: tuple) -> None:
    corners = np.array([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)])
    cv2.fillPoly(image, [corners], color, cv2.LINE_AA)


SHAPES: dict[str, Callable[[np.ndarray, int, int, int, tuple], None]] = {
    "disc": _disc,
    "ring": _ring,
    "cross": _cross,
    "stripes": _stripes,
    "dots": _dots,
    "triangle": _triangle,
}


def draw_image(concepts: Collection[str], rng: Rng, tone: np.ndarray) -> tuple[np.ndarray, dict[str, Box]]:
    """
    Draw shapes on a mottled ground.

    Args:
        concepts: Which shapes; each is drawn once.
        rng: Decides places, sizes, shades and the ground.
        tone: Mean colour of the ground, RGB from 0 to 255.

    Returns:
        `uint8` RGB `(SIZE, SIZE, 3)`, and the box of each shape as x0, y0, x1, y1 in pixels.
    """
    mottle = cv2.resize(rng.normal(0, 14, (6, 6, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    image = (tone + mottle).clip(0, 255).astype(np.uint8)
    cell = SIZE // CELLS
    boxes = {}
    for name, place in zip(concepts, rng.permutation(CELLS**2), strict=False):
        radius = int(rng.integers(*RADIUS, endpoint=True))
        room = cell // 2 - radius
        x, y = (
            int(index * cell + cell // 2 + rng.integers(-room, room, endpoint=True)) for index in divmod(place, CELLS)
        )
        shade = rng.choice([-1, 1]) * rng.uniform(60, 95)
        color = tuple(float(value) for value in (tone + shade + rng.normal(0, 10, 3)).clip(0, 255))
        SHAPES[name](image, x, y, radius, color)
        boxes[name] = (float(x - radius), float(y - radius), float(x + radius), float(y + radius))
    grain = rng.normal(0, 5, image.shape)
    return (image + grain).clip(0, 255).astype(np.uint8), boxes


def draw_concepts(rng: Rng) -> list[str]:
    """Random concepts of one image; its class is drawn first, so that classes are equally frequent."""
    wanted = CLASSES[rng.integers(len(CLASSES))]
    while True:
        present = [name for name in CONCEPTS if rng.random() < 0.4]
        if class_of(present) == wanted:
            return [str(name) for name in rng.permutation(present)]


def patient_tone(rng: Rng) -> np.ndarray:
    """The colour of one patient's images."""
    return np.array([rng.uniform(120, 150), rng.uniform(105, 140), rng.uniform(100, 135)])


def make_demo_images(root: str | Path, seed: int = 0) -> Path:
    """
    Write the set, or reuse the one already there: `concepts.csv`, `boxes.csv` and a PNG per image.

    It is written beside `root` and renamed into place, so `root` never holds half a set, and several processes may
    call this at once.

    Returns:
        The folder.

    Raises:
        FileExistsError: `root` holds something else.
    """
    root = Path(root)
    spec = {"version": DEMO_IMAGES_VERSION, "seed": seed}
    marker = root / "demo_images.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == spec:
        return root
    if root.exists():
        raise FileExistsError(f"{root} exists and is not this demo set; choose another folder.")
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
    _write_set(draft, seed)
    (draft / marker.name).write_text(json.dumps(spec) + "\n", encoding="utf-8")
    try:
        os.rename(draft, root)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not marker.is_file():
            raise
    return root


def _write_set(folder: Path, seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    rows, boxes = [], []
    for patient in range(PATIENTS):
        rng = np.random.default_rng([seed, patient])
        tone = patient_tone(rng)
        for number in range(IMAGES_PER_PATIENT):
            present = draw_concepts(rng)
            pixels, places = draw_image(present, rng, tone)
            name = f"images/{patient:03d}_{number:02d}.png"
            cv2.imwrite(str(folder / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            marks = {concept: int(concept in present) for concept in CONCEPTS}
            rows.append({"image": name, "patient": f"p{patient:03d}", "class": class_of(present), **marks})
            boxes += [
                {
                    "image": name,
                    "concept": concept,
                    **dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True)),
                }
                for concept, box in places.items()
            ]
    pd.DataFrame(rows).to_csv(folder / "concepts.csv", index=False)
    pd.DataFrame(boxes).to_csv(folder / "boxes.csv", index=False)


if __name__ == "__main__":
    print(make_demo_images(sys.argv[1]))
