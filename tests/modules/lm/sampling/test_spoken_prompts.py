"""Voice cloning: the tokens before the first code, the sampled codes, and their decoding and scoring.

Shapes: T audio samples, S code frames.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr
import torch
from lightning.pytorch import Trainer
from transformers import LlamaForCausalLM

from callbacks.synthesis import SpeechWriter
from datamodules.prompt_sets.text_and_shard_prompts import PromptDataModule
from modules.api import Audio, Branch, Candidate, Prompt, SamplingSettings
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.vocos_decoder import VocosDecoder
from modules.lm.network import LlamaSize
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.costs import decoding_flops
from modules.search.driver import run_searches
from modules.search.growth import candidate_seed, finished_candidate
from modules.search.identity import candidate_identity, score_identity
from modules.search.scorer import Scorer, decode_candidates
from modules.search.voices import with_voice_codes
from modules.tokens import Utterance
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.transcript import Transcript
from tests.toys.lm_toys import FORMAT, eager_copy, splitmix_uniform, toy_network
from tests.toys.search_toys import ToyCodec, ToyFormat, ToySampler, ToyVerifier, mean_level

MARKERS = 256  # the byte tokenizer's tokens come before them
TEXT_START, TEXT_END, SPEECH_START, SPEECH_END, CODE_0 = MARKERS + 2, MARKERS + 3, MARKERS + 4, MARKERS + 5, MARKERS + 8
VOICE = Utterance("seven", (5, 23, 0, 11))
SPOKEN = [
    Prompt("a", "one", voice=VOICE),
    Prompt("b", "four two", voice=Utterance("", (7, 7, 2))),
    Prompt("c", "four two"),
]
EXPECTED = [
    [TEXT_START, *b"seven one", TEXT_END, SPEECH_START, CODE_0 + 5, CODE_0 + 23, CODE_0, CODE_0 + 11],
    [TEXT_START, *b"four two", TEXT_END, SPEECH_START, CODE_0 + 7, CODE_0 + 7, CODE_0 + 2],
    [TEXT_START, *b"four two", TEXT_END, SPEECH_START],
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@pytest.fixture(scope="module")
def network() -> LlamaForCausalLM:
    return toy_network()


@torch.no_grad()
def naive_codes(plain: LlamaForCausalLM, tokens: list[int], seed: int, max_new_tokens: int) -> list[int]:
    """Recompute the whole sequence for every code; noise in Python's integers."""
    codes: list[int] = []
    allowed = [SPEECH_END, *range(CODE_0, CODE_0 + 24)]
    for position in range(max_new_tokens):
        probabilities = plain(torch.tensor([[*tokens, *(CODE_0 + code for code in codes)]])).logits[0, -1, allowed]
        cumulative = probabilities.double().softmax(0).cumsum(0)
        word = int((cumulative > splitmix_uniform(seed, position) * cumulative[-1]).int().argmax())
        if word == 0:
            break
        codes.append(word - 1)
    return codes


def test_codes_follow_a_sequence_built_by_hand(network):
    """Guards against a voice that is omitted, put after the text's codes, or counted among the sampled ones."""
    plain = eager_copy(network)
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    seeds = [3, 4, 5, 6, 7, 8]
    roots = sampler.start(SPOKEN)
    assert all(root.codes_S.numel() == 0 for root in roots)
    children = sampler.extend(roots, 2, 20, seeds)
    for index, child in enumerate(children):
        assert child.codes_S.tolist() == naive_codes(plain, EXPECTED[index // 2], seeds[index], 20)
    assert [sampler.num_prompt_tokens(prompt) for prompt in SPOKEN] == [len(tokens) for tokens in EXPECTED]
    dropped = sampler.extend(roots, 1, 5, seeds[::2])
    sampler.drop(dropped)
    again = sampler.extend(dropped, 1, 15, seeds[::2])
    assert [one.codes_S.tolist() for one in again] == [one.codes_S.tolist() for one in children[::2]]


def test_the_prompt_is_the_part_of_a_training_document_without_loss():
    """Guards against a prompt at inference in another form than in voice-cloning training."""
    for prompt, expected in zip(SPOKEN, EXPECTED, strict=True):
        tokens, num_context = FORMAT.example_tokens(prompt.text, [1, 2], voice=prompt.voice)
        assert tokens[:num_context] == expected
        assert tokens[num_context:] == [CODE_0 + 1, CODE_0 + 2, SPEECH_END]


def test_a_voice_without_codes_is_refused(network):
    """Guards against speech in a random voice that passes for a clone."""
    with pytest.raises(ValueError, match=r"Expected the `voice` of prompt 'a' as codes"):
        KVCacheSampler(network, FORMAT, SamplingSettings()).start([replace(SPOKEN[0], voice=Utterance("seven"))])


def small_codec() -> CodecGenerator:
    torch.manual_seed(1)
    return (
        CodecGenerator(
            SpectralEncoder(16000, 320, num_mels=20, channels=8, num_layers=1, hidden_channels=8),
            FiniteScalarQuantizer(8, [4, 4]),
            VocosDecoder(16000, 320, channels=8, num_layers=2, hidden_channels=8),
        )
        .eval()
        .requires_grad_(False)
    )


def test_audio_is_the_end_of_the_whole_and_holds_nothing_of_the_prompt():
    """Guards against the prompt in the candidate's audio, and against a decoder that does not use it as left
    context."""
    codec = small_codec()
    codes_S = torch.randint(16, (40,), generator=torch.Generator().manual_seed(2))
    prompt = Prompt("a", "x", voice=Utterance("y", tuple(codes_S[:15].tolist())))
    branch = Branch(prompt, codes_S[15:], stopped=True)
    whole_T = codec.decode(codes_S[None], torch.tensor([40]))[0]
    candidate = finished_candidate(branch, 0, 0)
    decode_candidates([candidate], codec)
    torch.testing.assert_close(candidate.audio.samples_T, whole_T[15 * 320 :], rtol=1e-4, atol=1e-5)
    alone_T = codec.decode(codes_S[None, 15:], torch.tensor([25]))[0]
    assert (candidate.audio.samples_T - alone_T).abs().max() > 1e-3
    growing = replace(candidate, codes_S=codes_S[15:25], audio=None, is_partial=True)
    decode_candidates([growing], codec)
    growing.codes_S = codes_S[15:]
    decode_candidates([growing], codec)
    assert growing.audio.samples_T.numel() == 25 * 320
    torch.testing.assert_close(growing.audio.samples_T[-320:], whole_T[-320:], rtol=1e-4, atol=1e-5)


def test_frames_of_the_prompt_that_are_decoded_again_are_counted():
    """Guards against underestimating the cost of cloning: frames are counted at the decoder."""
    codec = small_codec()
    decoded = []
    codec.decoder.register_forward_pre_hook(lambda module, arguments: decoded.append(arguments[0].shape[1]))
    for num_voice_codes in (2, 30):
        voice = Utterance("y", (1,) * num_voice_codes)
        branch = Branch(Prompt("a", "x", voice=voice), torch.ones(20, dtype=torch.int64))
        decode_candidates([finished_candidate(branch, 0, 0)], codec)
        assert decoding_flops(codec, 0, 20, num_voice_codes) == codec.decode_flops(decoded[-1])
    assert decoded[0] == 22 and 22 < decoded[1] < 50


def test_recordings_become_codes_as_one_by_one_and_only_once():
    """Guards against codes of the padding or at another rate, and against encoding a recording again for every
    prompt."""
    codec = small_codec()
    calls = []
    encode = codec.encode
    codec.encode = lambda audio_BT, num_samples_B: calls.append(len(audio_BT)) or encode(audio_BT, num_samples_B)
    generator = torch.Generator().manual_seed(3)
    audios = [
        Audio(torch.randn(length, generator=generator) / 5, rate)
        for length, rate in ((9600, 16000), (5000, 16000), (12000, 24000))
    ]
    prompts = [Prompt(str(i), "x", reference=audio, voice=Utterance("y")) for i, audio in enumerate(audios)]
    prompts += [replace(prompts[0], key="same"), Prompt("no voice", "x"), SPOKEN[0]]
    coded = with_voice_codes(prompts, codec, batch_size=2)
    assert calls == [2, 1]
    at_16k_T = torch.from_numpy(soxr.resample(audios[2].samples_T.numpy(), 24000, 16000)).float()
    for prompt, samples_T in zip(coded[:3], [audios[0].samples_T, audios[1].samples_T, at_16k_T], strict=True):
        codes_BS, num_codes_B = encode(samples_T[None], torch.tensor([samples_T.numel()]))
        assert list(prompt.voice.codes) == codes_BS[0, : num_codes_B[0]].tolist()
        assert prompt.voice.text == "y"
    assert coded[3].voice == coded[0].voice and coded[4:] == prompts[4:]
    with pytest.raises(ValueError, match="Expected a `reference` recording for the voice of prompt 'z'"):
        with_voice_codes([Prompt("z", "x", voice=Utterance("y"))], codec)


def test_a_search_carries_the_voice_to_the_decoder():
    """Guards against searches that lose the voice between the branch and the codec."""
    codec = ToyCodec()
    prompts = [Prompt("a", "x", voice=Utterance("y", (1, 2, 3)))]
    (trace,) = run_searches(
        prompts, BestOfN(4, 12), ToySampler(), Scorer(codec, 8), [ToyVerifier("mean", mean_level)], seed=0
    )
    assert set(codec.starts) == {3}
    for one in trace.candidates:
        assert one.audio.samples_T.numel() == 16 * one.num_codes and one.voice_codes_S.tolist() == [1, 2, 3]


def test_what_is_stored_depends_on_the_voice():
    """Guards against reusing stored candidates and scores of another voice."""
    codec, sampling, algorithm = ToyCodec(), SamplingSettings(), BestOfN(2, 5)
    plain = Prompt("a", "x")
    spoken = replace(plain, voice=Utterance("y", (1, 2)))

    def identity(prompt):
        return candidate_identity("model", ToyFormat(), codec, prompt, sampling, algorithm, 0)

    others = [replace(spoken, voice=Utterance("z", (1, 2))), replace(spoken, voice=Utterance("y", (1, 3))), plain]
    assert all(identity(other) != identity(spoken) for other in others)
    judge = ToyVerifier("mean", mean_level)
    heard = [replace(spoken, reference=Audio(torch.full((9,), level), 800)) for level in (0.1, 0.2)]
    assert score_identity(judge, heard[0], "d") != score_identity(judge, heard[1], "d")


def test_a_text_is_spoken_in_the_voice_of_a_file(tmp_path):
    """Guards against a `reference_text` without effect, and against the reference in the output file."""
    torch.manual_seed(5)
    model = LMModule(TextToSpeech(ByteTokenizer(), 16), LlamaSize(32, 48, 1, 2, 2))
    model.configure_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(12 if weight.ndim == 2 else 1)  # fresh weights sample the same codes after any prompt
    soundfile.write(tmp_path / "voice.wav", np.arange(0, 160) / 200, 800)
    algorithm, sampling = BestOfN(1, 24), SamplingSettings()
    speaker = SpeechWriter(
        ToyCodec(), algorithm, sampling, tmp_path, reference=tmp_path / "voice.wav", reference_text="seven"
    )
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[speaker], enable_checkpointing=False, **options)
    trainer.predict(model, PromptDataModule(model.prompt_format, text="one"), return_predictions=False)
    samples_T = soundfile.read(tmp_path / "voice.wav", dtype="float32")[0]
    voice = Utterance("seven", [int(level * 16) for level in samples_T[::16]])
    (batch,) = PromptDataModule(model.prompt_format, text="one").predict_dataloader()
    sampler, prompt = model.sampler(sampling), replace(batch.prompts[0], voice=voice)
    with torch.inference_mode():
        seeds = [candidate_seed(0, prompt.key, 0)]
        (branch,), (other,) = (sampler.extend(sampler.start([one]), 1, 24, seeds) for one in (prompt, batch.prompts[0]))
    assert branch.codes_S.tolist() != other.codes_S.tolist()
    levels = soundfile.read(speaker.written[0], dtype="float32")[0]
    np.testing.assert_allclose(levels, np.repeat(branch.codes_S.numpy() / 16, 16), atol=1e-4)
    assert len(levels) and json.loads(speaker.written[0].with_suffix(".json").read_text())["reference_text"] == "seven"
    with pytest.raises(ValueError, match="Expected a `reference` with the transcript 'seven'"):
        SpeechWriter(ToyCodec(), algorithm, sampling, tmp_path, reference_text="seven")


class LengthRecogniser:
    """Transcribes one word per 100 samples."""

    model_hash, families = "length", frozenset({"length"})

    def transcribe(self, audios, language):
        return [" ".join(["word"] * (audio.samples_T.numel() // 100)) for audio in audios]

    def flops(self, seconds):
        return 0.0


def test_a_continuation_is_transcribed_with_its_prompt():
    """Guards against counting the prompt's words as deletions; and, with a text of its own, as insertions."""
    reference = Audio(torch.ones(300) / 2, 1000)
    candidate = Candidate("a", 0, 0, torch.ones(4), 0.0, True, Audio(torch.ones(200) / 3, 1000))
    verifier = Transcript(LengthRecogniser(), BasicWords())
    continued = Prompt("a", "word " * 5, reference=reference, voice=Utterance("", (1,)))
    cloned = Prompt("a", "word word", reference=reference, voice=Utterance("word word word", (1,)))
    for prompt in (continued, cloned, replace(cloned, voice=None)):
        assert verifier.score(prompt, [candidate]).tolist() == [1.0]
    assert verifier.hypotheses(continued, [candidate]) == ["word word word word word"]
    assert candidate.audio.samples_T.numel() == 200
