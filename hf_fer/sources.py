"""Names that may be a folder here or a repository on the Hub."""

import difflib
from pathlib import Path

# What a mistyped folder of a run or of data usually begins with; nobody on the Hub is meant by it.
USUAL_FOLDERS = ("outputs", "output", "checkpoints", "models", "runs", "results", "data")
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".onnx", ".npz")


def is_missing_here(name: str) -> bool:
    """Whether a name is that of a file or folder on this machine, and there is none."""
    return looks_local(name) and not Path(name).exists()


def looks_local(name: str) -> bool:
    """Whether a name cannot be, or is most unlikely to be, `owner/name` on the Hub."""
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name.endswith(("/", *FILE_ENDINGS)):
        return True
    first, slash, _ = name.partition("/")
    folders = [path.name for path in Path().iterdir() if path.is_dir()]
    return bool(slash) and bool(difflib.get_close_matches(first, [*USUAL_FOLDERS, *folders], n=1, cutoff=0.8))
