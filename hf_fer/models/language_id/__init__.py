"""Text language identification. Importing this registers its pipeline; the model is a stock one."""

from transformers import AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fer.models.language_id.pipeline_language_id import TextLanguageIdentificationPipeline

if "text-language-identification" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "text-language-identification",
        pipeline_class=TextLanguageIdentificationPipeline,
        pt_model=AutoModelForSequenceClassification,
        type="text",
    )
