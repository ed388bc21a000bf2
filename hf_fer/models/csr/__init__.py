"""Concept-based similarity reasoning. Importing this registers it with the Auto classes and with `pipeline`."""

from transformers import AutoConfig, AutoModelForImageClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fer.models.csr.configuration_csr import CsrConfig
from hf_fer.models.csr.modeling_csr import CsrForImageClassification
from hf_fer.models.csr.overlay_csr import overlay
from hf_fer.models.csr.pipeline_csr import ConceptImageClassificationPipeline
from hf_fer.models.csr.processing_csr import CsrProcessor

AutoConfig.register(CsrConfig.model_type, CsrConfig, exist_ok=True)
AutoModelForImageClassification.register(CsrConfig, CsrForImageClassification, exist_ok=True)
AutoProcessor.register(CsrConfig, CsrProcessor, exist_ok=True)

# Saved checkpoints carry this code, so that they load with trust_remote_code where hf_fer is not installed.
CsrConfig.register_for_auto_class()
CsrForImageClassification.register_for_auto_class("AutoModelForImageClassification")
CsrProcessor.register_for_auto_class("AutoProcessor")

if "concept-image-classification" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "concept-image-classification",
        pipeline_class=ConceptImageClassificationPipeline,
        pt_model=AutoModelForImageClassification,
        type="multimodal",
    )
