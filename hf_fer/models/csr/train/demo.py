"""The images that csr's demo recipes draw for themselves."""

from pathlib import Path

from hf_fer.data.loading import cache_dir

from .concepts import ConceptFormat
from .demo_images import CONCEPTS, make_demo_images


def demo_data(seed: int = 0) -> tuple[Path, ConceptFormat]:
    """The drawn images' table, and what its columns mean."""
    folder = make_demo_images(cache_dir() / f"demo_images_{seed}", seed)
    concepts = {name: name for name in CONCEPTS}
    return folder / "concepts.csv", ConceptFormat(
        concepts=concepts, class_columns=["class"], boxes=str(folder / "boxes.csv")
    )
