"""Facts about the data for a model's card, and the card's example of use."""

from pathlib import Path

from hf_fer.data.facts import DataFacts
from hf_fer.data.loading import LoadedData

from . import ravdess
from .corpora import BY_NAME
from .demo import NOTICE_NAME

RAVDESS = DataFacts(
    license="cc-by-nc-sa-4.0",
    limits="RAVDESS has 24 actors, two sentences, North American English, frontal faces and studio sound; expect far "
    "lower scores elsewhere. It is licensed for non-commercial use, with attribution and under the same terms.",
)


def data_facts(dataset: str, data: LoadedData) -> DataFacts:
    """Licence and limits of the synthetic clips and of RAVDESS; empty for other clips."""
    if dataset == "demo" or Path(dataset, NOTICE_NAME).is_file():
        return DataFacts(license="apache-2.0")
    columns = {name for split in data.splits.values() for name in split.column_names}
    if "corpus" in columns:
        return corpus_facts({name for split in data.splits.values() for name in split["corpus"]})
    return RAVDESS if set(ravdess.FACTORS) <= columns else DataFacts()


def corpus_facts(names: set[str]) -> DataFacts:
    """Limits of what was recorded for research; a licence is left to whoever shares the model."""
    sources = {corpus.name: corpus.source for corpus in BY_NAME}
    listed = ", ".join(f"{name} ({sources[name]})" if name in sources else name for name in sorted(names))
    return DataFacts(
        limits=f"Trained and scored on {listed}. Corpora of this kind have few speakers and mostly acted emotions, "
        "recorded for research: expect lower scores elsewhere, and look up their licences before you share a model."
    )


def card_example(repo_id: str, adapter: bool) -> str:
    """Python code that loads and uses the model or, with `adapter`, the adapters and their base checkpoints."""
    if adapter:
        return (
            "from transformers import AutoProcessor, pipeline\n\n"
            "from hf_fer.adapters import load_adapter_model  # also loads the base checkpoints\n\n"
            f'model, processor = load_adapter_model("{repo_id}"), AutoProcessor.from_pretrained("{repo_id}")\n'
            'classify = pipeline("audio-visual-emotion-recognition", model=model, processor=processor)\n'
            'classify("clip.mp4", top_k=3)'
        )
    return (
        "import hf_fer  # or pass trust_remote_code=True to pipeline\n"
        "from transformers import pipeline\n\n"
        f'classify = pipeline("audio-visual-emotion-recognition", model="{repo_id}")\n'
        'classify("clip.mp4", top_k=3)'
    )
