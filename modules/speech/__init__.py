"""Speech from a text: a model with its codec, loaded once, that speaks. Import rules: tests/test_architecture.py."""

from modules.speech.voice import Voice, load_voice

__all__ = ["Voice", "load_voice"]
