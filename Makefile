.PHONY: install test lint demo docs address

install:
	pip install -c constraints.txt -e ".[dev]"

test:
	python -m pytest

lint:
	ruff check .
	ruff format --check .

demo:
	accelerate launch --config_file accelerate_configs/cpu.yaml hf_fer/run.py training_args/demo/multimodal_fer.json

# Needs the extra docs; checks every link.
docs:
	mkdocs build --strict

# Writes the repository's address of pyproject.toml into README.md and the notebook.
address:
	python docs/hooks.py
