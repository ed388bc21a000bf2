"""The systems, one folder each: those of this package, then those of the folders in `HF_FER_SYSTEMS`."""

import os
from pathlib import Path

FLAGSHIP = "multimodal_fer"
"""The default system of commands."""

SYSTEMS_VARIABLE = "HF_FER_SYSTEMS"
"""Environment variable that lists folders of users' own systems, separated as in `PATH`."""


def own_folders(here: str) -> list[str]:
    """
    The folders that `HF_FER_SYSTEMS` names.

    Args:
        here: The folder of this package's systems.

    Raises:
        ImportError: a folder does not exist, or has a system whose name is taken.
    """
    folders = [folder for folder in os.environ.get(SYSTEMS_VARIABLE, "").split(os.pathsep) if folder]
    owners = {path.parent.name: here for path in Path(here).glob("*/__init__.py")}
    for folder in folders:
        if not Path(folder).is_dir():
            raise ImportError(f"{SYSTEMS_VARIABLE}: there is no folder {folder}. Correct it, or unset the variable.")
        for name in (path.parent.name for path in Path(folder).glob("*/__init__.py")):
            if name in owners:
                raise ImportError(f"{SYSTEMS_VARIABLE}: {folder} and {owners[name]} both have {name}; rename one.")
            owners[name] = folder
    return [str(Path(folder).resolve()) for folder in folders]


__path__ += own_folders(__path__[0])
