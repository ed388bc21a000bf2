"""Entry point of `python -m hf_fer.stages`; see `hf_fer.experiment.stages`."""

from hf_fer.experiment.stages import main

if __name__ == "__main__":
    main()
