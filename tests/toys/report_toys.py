"""A finished sweep of tones for the report, hand-made curves, and a parser of what a browser would load."""

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import torch

from callbacks.inference_scaling import InferenceScaling
from modules.api import Audio, Candidate, Cost, Prompt, SamplingSettings
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.results import SweepResults, SweptPrompt
from modules.search.panel import Panel
from modules.search.protocol import Trace
from tests.toys.facts import CodecToy, VerifierToy

RATE, HOP = 16000, 320


class ToneCodec(CodecToy):
    """Code k is 20 ms of a tone of 200 + 50 k Hz; encoding picks the loudest bin, so that tones survive."""

    sample_rate, frame_rate, codebook_size, fingerprint = RATE, RATE / HOP, 40, "tones"

    def encode(self, audio_BT, num_samples_B):
        frames_BSH = audio_BT[:, : audio_BT.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        loudest_BS = torch.fft.rfft(frames_BSH).abs()[..., 4:44].argmax(-1)
        return loudest_BS, num_samples_B // HOP

    def decode(self, codes_BS, num_codes_B, start_frame=0):
        phase_BT = (2 * math.pi * (200 + 50 * codes_BS.double()) / RATE).repeat_interleave(HOP, 1).cumsum(1)
        return (0.4 * phase_BT.sin()).float()

    def decode_flops(self, num_codes):
        return 1000.0 * num_codes


class ToneVerifier(VerifierToy):
    """A verifier that compares a property of a candidate with the prompt."""

    needs_text, judges_partial = True, True

    def __init__(self, name, rule):
        self.name, self.model_hash, self.rule, self.settings = name, f"hash of {name}", rule, {"normaliser": "tones"}
        self.families = frozenset({name})

    def score(self, prompt, candidates):
        return torch.tensor([self.rule(prompt, candidate) for candidate in candidates], dtype=torch.float64)

    def flops(self, seconds):
        return seconds


class WritingVerifier(ToneVerifier):
    def reference_length(self, prompt):
        return len(prompt.text.split())

    def hypotheses(self, prompt, candidates):
        return [f"<tone> {int(one.codes_S[0])} & more" if one.num_codes else "" for one in candidates]


def tone_sweep(folder):
    """An InferenceScaling that has just ended: 3 prompts x 4 candidates, one runaway, one without codes."""
    generator = np.random.default_rng(0)
    judge = WritingVerifier("listener", lambda prompt, one: 1 - abs(int(one.codes_S[0]) - len(prompt.text)) / 40)
    close = ToneVerifier("closeness", lambda prompt, one: -abs(int(one.codes_S[0]) - len(prompt.text)) + one.seed % 3)
    short = ToneVerifier("likelihood", lambda prompt, one: one.log_probability)
    codec, traces, hypotheses = ToneCodec(), [], {}
    for index in range(3):
        reference_T = codec.decode(torch.full((1, 50), 5 + index), torch.tensor([50]))[0]
        prompt = Prompt(f"prompt{index}", f"say <b>{index}</b>", speaker="tone", reference=Audio(reference_T, RATE))
        candidates = []
        for number in range(4):
            codes_S = torch.full((30 + 5 * number,), int(generator.integers(40)))
            one = Candidate(
                prompt.key, number, number, codes_S, -float(number), number != 3, cost=Cost(1e9, 1e6, 1e7, 0.5)
            )
            one.scores = {who.name: float(who.score(prompt, [one])) for who in (judge, close, short)}
            candidates.append(one)
            hypotheses.setdefault(prompt.key, {})[number, "listener"] = judge.hypotheses(prompt, [one])[0]
        traces.append(Trace(prompt, candidates))
    traces[2].candidates[0] = replace(traces[2].candidates[0], codes_S=torch.zeros(0, dtype=torch.int64))
    traces[1].candidates[1].scores["listener"] = math.nan
    panel = Panel([close, short], [judge])
    points = CurveCalculator("tones", BestOfN(4, 12), traces, panel, seed=0, num_resamples=200).points()
    verifiers = [
        {"name": one.name, "roles": panel.roles(one.name), "model_hash": one.model_hash, "settings": one.settings}
        for one in panel.everyone
    ]
    description = {"seed": 17, "num_candidates": 4, "versions": {"torch": "2.x"}, "verifiers": verifiers}
    scaling = InferenceScaling(codec, BestOfN(4, 50), SamplingSettings(), [close, short], [judge], folder)
    swept = [
        SweptPrompt("", "best_of_n", math.nan, 17, "tones", trace, hypotheses[trace.prompt.key]) for trace in traces
    ]
    scaling.results = SweepResults(swept, points, description)
    return scaling


class Page(HTMLParser):
    """Parsed page: resources, links, audio, texts and tables that a browser would load and show."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.open_tags, self.words, self.tables = [], [], [], [], {}
        self.audio, self.cell, self.row, self.table = [], None, None, None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.open_tags.append(tag)
        self.sources += [attributes[name] for name in ("src", "srcset", "poster", "data") if name in attributes]
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag == "audio":
            self.audio.append(attributes["src"])
        if tag == "table":
            self.table = self.tables.setdefault(attributes.get("id", len(self.tables)), [])
        if tag == "tr":
            self.row = []
            self.table.append(self.row)
        if tag in ("td", "th"):
            self.row.append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        if "style" not in self.open_tags[-1:]:
            self.words.append(data)
        if self.cell:
            self.row[-1] += data


def curve(selector, scores):
    return [
        CurvePoint(
            "best_of_n", selector, "listener", 2**power, score, score - 0.1, score + 0.1, 9, 0, 0, score, "tones"
        )
        for power, score in enumerate(scores)
    ]
