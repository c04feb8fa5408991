"""Torch's CPU threads after libraries that set the process's own."""

import json
import os
import subprocess
import sys

from tests.conftest import REPOSITORY

# In a separate process: the suite runs on one thread, where the fault does not show.
PROGRAM = """
import ctypes, json, sys, types
from pathlib import Path
import torch
torch.set_num_threads(2)

class AutoModel:  # sets torch's threads when it is made, as funasr's does
    def __init__(self, **options):
        torch.set_num_threads(1)
    def generate(self, **options):
        torch.set_num_threads(1)
        return [{"feats": [1.0, 0.0]}]

sys.modules["funasr"] = types.SimpleNamespace(AutoModel=AutoModel)
from modules.api import Audio
from modules.codec.parts.whisper_encoder import WhisperEncoder
from modules.verifiers.embeddings.funasr_models import Emotion2Vec
from modules.verifiers.naturalness import Dnsmos
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx
from modules.verifiers.recognisers.whisper import FasterWhisper
from tests.conftest import speech_like

(openmp,) = {line.split()[-1] for line in open("/proc/self/maps") if "torch/lib/libgomp" in line}
count = ctypes.CDLL(openmp).omp_get_max_threads
clip = Audio(speech_like(["one", "two", "three", "four"], 120.0, torch.Generator().manual_seed(0)), 16000)
clips = [clip, Audio(clip.samples_T.flip(0), 16000)]
whisper, dnsmos, sphinx = FasterWhisper(device="cpu", window_seconds=10), Dnsmos("p808_mos"), Pocketsphinx()
resemblyzer, emotion = Resemblyzer(), Emotion2Vec(str(Path(__file__).parent))
steps = {
    "load whisper": lambda: whisper._whisper,
    "whisper": lambda: whisper.transcribe(clips, "en"),
    "whisper encoder": lambda: WhisperEncoder(window_seconds=10)(clip.samples_T[None], torch.tensor([16000])),
    "load dnsmos": lambda: dnsmos._model,
    "dnsmos": lambda: dnsmos._judge_all(clips),
    "load pocketsphinx": lambda: sphinx._decoder,
    "pocketsphinx": lambda: sphinx.transcribe(clips, "en"),
    "load resemblyzer": lambda: resemblyzer._encoder,
    "resemblyzer": lambda: resemblyzer.embed(clips),
    "load funasr": lambda: emotion._funasr._network,
    "funasr": lambda: emotion.embed(clips),
}
seen = {}
for name, step in steps.items():
    step()
    seen[name] = [torch.get_num_threads(), count()]
    torch.set_num_threads(2)  # each engine answers for itself
print(json.dumps(seen))
"""


def test_no_engine_leaves_torch_on_other_threads(tmp_path) -> None:
    """Guards against training that continues with one thread after Whisper's first transcript."""
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(REPOSITORY)}
    program = [sys.executable, str(tmp_path / "program.py")]
    output = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert output.returncode == 0, output.stderr
    seen = json.loads(output.stdout.splitlines()[-1])
    assert len(seen) == 11
    assert seen == {name: [2, 2] for name in seen}
