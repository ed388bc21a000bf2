.PHONY: install test lint demo

install:
	pip install -c constraints.txt -e ".[dev]"

test:
	python -m pytest

lint:
	ruff check .
	ruff format --check .

demo:
	accelerate launch --config_file accelerate_configs/cpu.yaml hf_fer/run.py training_args/demo/multimodal_fer.json
