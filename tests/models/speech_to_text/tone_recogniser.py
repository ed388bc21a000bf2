"""A recogniser of the demo's beeps that needs no training: a stand-in for a trained model, with its processor."""

from types import SimpleNamespace

import numpy as np
import torch
from transformers import ParakeetFeatureExtractor, ParakeetForCTC

from hf_fer.models.speech_to_text.pipeline_speech_to_text import TimedSpeechRecognitionPipeline
from hf_fer.models.speech_to_text.train.demo import FORMANTS, RATE, WORDS, letter_pattern, spoken
from hf_fer.models.speech_to_text.train.model import preset_config
from hf_fer.models.speech_to_text.train.vocabulary import SPACE, build_tokenizer

STEP = 640
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "subsampling_conv_channels": 8,
}


class ToneRecogniser(ParakeetForCTC):
    """
    Hears which two tones a frame has. Like a model it does not know what lies beyond its chunk, and it normalises by
    the whole chunk, so that its answers for the same frame differ from chunk to chunk.
    """

    def forward(self, input_features, attention_mask=None, **kwargs):
        samples = input_features[0].numpy()
        count = -(-len(samples) // STEP)
        frames = np.pad(samples, (0, count * STEP - len(samples))).reshape(count, STEP)
        spectrum = np.abs(np.fft.rfft(frames * np.hanning(STEP), 8192, axis=1))
        bins = np.fft.rfftfreq(8192, 1 / RATE)
        bands = np.stack(
            [spectrum[:, (bins > 0.9 * tone) & (bins < 1.1 * tone)].max(axis=1) for tone in FORMANTS], axis=1
        )
        bands /= max(bands.std(), 1e-9)
        letters = self.letters
        strength = np.stack([np.minimum(*(bands[:, place] for place in letters[name])) for name in letters], axis=1)
        logits = np.full((count, len(self.tokenizer)), -3.0, np.float32)
        logits[:, [self.tokenizer.convert_tokens_to_ids(name) for name in letters]] = 12 * strength - 4
        quiet = bands.max(axis=1) < 0.25
        # A pause of three silent frames is a space, in its middle; shorter silences are blanks.
        inner = quiet & np.roll(quiet, 1) & np.roll(quiet, -1)
        logits[inner, self.tokenizer.convert_tokens_to_ids(SPACE)] = 6
        logits[:, self.tokenizer.pad_token_id] = 3
        return SimpleNamespace(logits=torch.tensor(logits)[None])


class Passing(ParakeetFeatureExtractor):
    """Gives the samples as they are."""

    def __call__(self, samples, **kwargs):
        return {"input_features": torch.tensor(np.asarray(samples))[None]}


def tone_pipeline(**parameters):
    """`TimedSpeechRecognitionPipeline` with the stand-in."""
    tokenizer = build_tokenizer([" ".join(WORDS)], "nfc", 0)
    torch.manual_seed(0)
    config = preset_config("weak", len(tokenizer), tokenizer.pad_token_id, 160, {"encoder_config": TINY})
    model = ToneRecogniser(config).eval()
    model.tokenizer = tokenizer
    model.letters = {
        letter: tuple(FORMANTS.index(tone) for tone in letter_pattern(letter))
        for letter in sorted({letter for word in WORDS for letter in word})
    }
    extractor = Passing(sampling_rate=RATE)
    return TimedSpeechRecognitionPipeline(
        model=model, tokenizer=tokenizer, feature_extractor=extractor, device="cpu", **parameters
    )


def speech(seconds, seed=0):
    """Sound of the demo's words, at least so long, `float32 (samples,)`, and what was said."""
    draw, parts, said, length = np.random.default_rng(seed), [], [], 0
    while length < seconds * RATE:
        sentence = " ".join(draw.choice(WORDS, size=4))
        parts.append(spoken(sentence, 1.0, 1.0, draw))
        said.append(sentence)
        length += len(parts[-1])
    return np.concatenate(parts), " ".join(said)
