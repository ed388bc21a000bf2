"""The command `python -m hf_fer.data.demo`, which writes the synthetic clips of the flagship's demo."""

import importlib
import sys

from hf_fer import models

if __name__ == "__main__":
    importlib.import_module(f"{models.__name__}.{models.FLAGSHIP}.train.demo").main(sys.argv[1:])
