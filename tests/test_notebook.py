"""The Colab notebook, run top to bottom in a real kernel on the demo data, in small."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "colab.ipynb"

SMALL = [
    *("--num_train_epochs", "1", "--max_train_samples", "16", "--max_eval_samples", "16"),
    *("--dataloader_num_workers", "0", "--dataloader_persistent_workers", "false"),
]


def test_it_runs_from_top_to_bottom(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    settings.source += f"\nOUTPUT, EXTRA = {str(tmp_path / 'out')!r}, {SMALL}"
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    answer = notebook.cells[-2].outputs[-1]["data"]["text/plain"]
    assert answer.count("'label'") == 3
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in str(output)]
    assert len(pictures) == 2
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
