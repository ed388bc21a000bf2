"""Text language identification. Importing it registers its pipeline and n-gram model; other models are stock ones."""

from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fer.models.language_id.configuration_language_id import LanguageIdNgramConfig
from hf_fer.models.language_id.modeling_language_id import LanguageIdNgramForSequenceClassification
from hf_fer.models.language_id.pipeline_language_id import TextLanguageIdentificationPipeline

AutoConfig.register(LanguageIdNgramConfig.model_type, LanguageIdNgramConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    LanguageIdNgramConfig, LanguageIdNgramForSequenceClassification, exist_ok=True
)

# Saved checkpoints carry this code, so that they load with trust_remote_code where hf_fer is not installed.
LanguageIdNgramConfig.register_for_auto_class()
LanguageIdNgramForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

if "text-language-identification" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "text-language-identification",
        pipeline_class=TextLanguageIdentificationPipeline,
        pt_model=AutoModelForSequenceClassification,
        type="text",
    )
