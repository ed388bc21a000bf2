"""Audio-visual emotion recognition. Importing this registers it with the Auto classes and with `pipeline`."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForVideoClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fer.models.multimodal_fer.configuration_multimodal_fer import MultimodalFerConfig
from hf_fer.models.multimodal_fer.modeling_multimodal_fer import (
    MultimodalFerForEmotionClassification,
    MultimodalFerModel,
)
from hf_fer.models.multimodal_fer.pipeline_multimodal_fer import AudioVisualEmotionRecognitionPipeline
from hf_fer.models.multimodal_fer.processing_multimodal_fer import (
    MultimodalFerFeatureExtractor,
    MultimodalFerProcessor,
)

AutoConfig.register(MultimodalFerConfig.model_type, MultimodalFerConfig, exist_ok=True)
AutoModel.register(MultimodalFerConfig, MultimodalFerModel, exist_ok=True)
AutoModelForAudioClassification.register(MultimodalFerConfig, MultimodalFerForEmotionClassification, exist_ok=True)
AutoModelForVideoClassification.register(MultimodalFerConfig, MultimodalFerForEmotionClassification, exist_ok=True)
AutoFeatureExtractor.register(MultimodalFerConfig, MultimodalFerFeatureExtractor, exist_ok=True)
AutoProcessor.register(MultimodalFerConfig, MultimodalFerProcessor, exist_ok=True)

# Saved checkpoints carry this code, so that they load with trust_remote_code where hf_fer is not installed.
MultimodalFerConfig.register_for_auto_class()
MultimodalFerModel.register_for_auto_class("AutoModel")
MultimodalFerForEmotionClassification.register_for_auto_class("AutoModelForVideoClassification")
MultimodalFerFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
MultimodalFerProcessor.register_for_auto_class("AutoProcessor")

if "audio-visual-emotion-recognition" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "audio-visual-emotion-recognition",
        pipeline_class=AudioVisualEmotionRecognitionPipeline,
        pt_model=AutoModelForVideoClassification,
        type="multimodal",
    )
