"""Speech recognition by CTC. Importing this registers its pipeline; the model is a stock one."""

from transformers import AutoModelForCTC
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fer.models.speech_to_text.pipeline_speech_to_text import TimedSpeechRecognitionPipeline

if "timed-speech-recognition" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "timed-speech-recognition",
        pipeline_class=TimedSpeechRecognitionPipeline,
        pt_model=AutoModelForCTC,
        type="multimodal",
    )
