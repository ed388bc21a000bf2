"""Recognises a split's recordings one by one with each decoder, as the pipeline does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

from transformers import PreTrainedModel, ProcessorMixin

from ..alignment_speech_to_text import words_of
from ..pipeline_speech_to_text import TimedSpeechRecognitionPipeline
from ..recognition_speech_to_text import Search
from ..sound_speech_to_text import MediaLimits, load_audio
from .word_confidence import Evidence

GREEDY = "greedy"
"""Name of the decoder whose confidences are calibrated."""


@dataclass
class Heard:
    """
    The output of one decoder on a split.

    Args:
        texts: Recognised text of each recording.
        evidence: What the confidences of the words come from; of greedy decoding only.
        seconds: Total time from reading files to words.
    """

    texts: list[str] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    seconds: float = 0.0


def listen(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    paths: Iterable[str],
    searches: Mapping[str, Search],
    max_seconds: float,
) -> dict[str, Heard]:
    """
    Recognise recordings one after another; each goes through the model once.

    Args:
        model: The model, on its device.
        processor: Its `feature_extractor` and `tokenizer` are used.
        paths: Files that have been checked.
        searches: Name -> decoder.
        max_seconds: Longer files are refused.

    Raises:
        ImportError: a decoder's libraries are not installed.
        UnusableMediaError: a file can no longer be read.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    pipe = TimedSpeechRecognitionPipeline(
        model=model, feature_extractor=extractor, tokenizer=tokenizer, device=model.device
    )
    decoders = {name: search.decode(model, tokenizer) for name, search in searches.items()}
    found = {name: Heard() for name in searches}
    for path in paths:
        begun = perf_counter()
        log_probs = pipe.frames(load_audio(path, extractor.sampling_rate, MediaLimits(max_seconds)))
        shared = perf_counter() - begun
        for name, decode in decoders.items():
            begun = perf_counter()
            words = words_of(decode(log_probs), tokenizer)
            heard = found[name]
            heard.texts.append(" ".join(word.text for word in words))
            heard.seconds += shared + perf_counter() - begun
            if name == GREEDY:
                heard.evidence.add(words, log_probs)
    return found
