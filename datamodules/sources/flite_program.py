"""Stand-alone program that speaks with libflite, of Debian's package flite: `python flite_program.py VOICE`.

flite.py runs it as a process of its own; nothing imports it. It imports only the standard library. It prints the line
{"missing": REASON} if the libraries cannot be loaded, else {"ready": VOICE}. Then, for each line of standard input, a
JSON string, it prints a JSON object and, after it, its `num_samples` samples as int16 (in the machine's byte order).
"""

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

NO_SPEECH = "nothing to speak"
POINTERS = (
    "flite_synth_text", "utt_relation", "utt_wave", "relation_head", "item_next", "item_prev", "item_as",
    "item_parent", "item_daughter",
)  # fmt: skip


class Wave(ctypes.Structure):
    """cst_wave of flite 2."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.c_void_p),
    )


class Voice:
    """A voice of libflite. Raises OSError if the libraries are missing."""

    def __init__(self, name: str) -> None:
        for library in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
        self.flite = ctypes.CDLL("libflite.so.1", ctypes.RTLD_GLOBAL)
        self.libc = ctypes.CDLL(None)
        for function in POINTERS:
            getattr(self.flite, function).restype = ctypes.c_void_p
        self.flite.item_feat_string.restype = ctypes.c_char_p
        self.flite.item_feat_float.restype = ctypes.c_float
        self.flite.flite_init()
        register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
        register.restype = ctypes.c_void_p
        self.voice = ctypes.c_void_p(register(None))

    def speak(self, text: str) -> tuple[dict[str, Any], bytes]:
        """Returns {"sample_rate", "num_samples", "phonemes": [[name, end], ...], "words": [...]} and the samples, or
        {"error": reason} and none."""
        if not text.strip() or "\0" in text:
            return {"error": NO_SPEECH, "num_samples": 0}, b""
        self.libc.srand(1)  # the state of a new process: the voice's excitation is noise of rand()
        utterance = self.flite.flite_synth_text(text.encode(errors="replace"), self.voice)
        if not utterance:
            return {"error": NO_SPEECH, "num_samples": 0}, b""
        utterance = ctypes.c_void_p(utterance)
        try:
            return self._spoken(utterance)
        finally:
            self.flite.delete_utterance(utterance)

    def _spoken(self, utterance: ctypes.c_void_p) -> tuple[dict[str, Any], bytes]:
        address = self.flite.utt_wave(utterance)
        words = [self._word(word) for word in self._items(utterance, b"Word")] if address else []
        if not any(word["start"] is not None for word in words):
            return {"error": NO_SPEECH, "num_samples": 0}, b""
        wave = Wave.from_address(address)
        phonemes = [[self._string(item, b"name"), self._end(item)] for item in self._items(utterance, b"Segment")]
        about = {"sample_rate": wave.sample_rate, "num_samples": wave.num_samples}
        return {**about, "phonemes": phonemes, "words": words}, ctypes.string_at(wave.samples, 2 * wave.num_samples)

    def _items(self, utterance: ctypes.c_void_p, relation: bytes) -> Iterator[int]:
        item = self.flite.relation_head(ctypes.c_void_p(self.flite.utt_relation(utterance, relation)))
        while item:
            yield item
            item = self._next("item_next", item)

    def _word(self, item: int) -> dict[str, Any]:
        """A word as spoken, its token as written with the punctuation after it, whether the word is the token's last
        one, and the start of its first phoneme in seconds, None without phonemes."""
        in_token = self._in("Token", item)
        token = self._next("item_parent", in_token)
        return {
            "name": self._string(item, b"name"),
            "token": self._string(token, b"name"),
            "punctuation": self._string(token, b"punc"),
            "ends_token": not self._next("item_next", in_token),
            "start": self._start(item),
        }

    def _start(self, word: int) -> float | None:
        syllable = self._next("item_daughter", self._in("SylStructure", word))
        while syllable:
            if phoneme := self._next("item_daughter", syllable):
                before = self._next("item_prev", self._in("Segment", phoneme))
                return self._end(before) if before else 0.0
            syllable = self._next("item_next", syllable)
        return None

    def _next(self, function: str, item: int | None) -> int | None:
        return getattr(self.flite, function)(ctypes.c_void_p(item)) if item else None

    def _in(self, relation: str, item: int) -> int | None:
        return self.flite.item_as(ctypes.c_void_p(item), relation.encode())

    def _string(self, item: int | None, feature: bytes) -> str:
        if not item or not self.flite.item_feat_present(ctypes.c_void_p(item), feature):
            return ""
        return (self.flite.item_feat_string(ctypes.c_void_p(item), feature) or b"").decode(errors="replace")

    def _end(self, item: int) -> float:
        """End of a phoneme in seconds."""
        return self.flite.item_feat_float(ctypes.c_void_p(item), b"end")


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libflite may print does not mix with the answers
    try:
        voice = Voice(sys.argv[1])
    except (OSError, AttributeError) as error:
        answers.write(json.dumps({"missing": str(error)}).encode() + b"\n")
        return
    answers.write(json.dumps({"ready": sys.argv[1]}).encode() + b"\n")
    answers.flush()
    for line in sys.stdin.buffer:
        about, samples = voice.speak(json.loads(line))
        answers.write(json.dumps(about).encode() + b"\n" + samples)
        answers.flush()


if __name__ == "__main__":
    main()
