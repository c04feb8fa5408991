"""Speakers: given to a toy model of two speakers, numbered by source and name, planned for, and never paired with
another speaker."""

import hashlib
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import soundfile
import torch
from lightning import Trainer

from callbacks.spoken_texts import SpokenTexts
from datamodules.audio import AudioDataModule
from datamodules.mixture import MixedRows
from datamodules.prompt_sets.text_and_shard_prompts import PromptDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.shards import ShardIndex, ShardReader, ShardWriter
from datamodules.sources.folder import FolderSource
from datamodules.speakers import speakers_of
from datamodules.tasks import TextToSpeech as SpeakTask
from datamodules.tasks import VoiceCloning, Voices, speaker_groups
from datamodules.tokens import TokenDataModule, TokenRows
from modules.api import SamplingSettings
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule

OF_SPEAKER = {"ann": range(0, 16), "bob": range(16, 32)}  # the codes of each speaker
HEADER = {"codebook_size": 32, "codec_fingerprint": "a"}


def write_tokens(folder, samples, samples_per_shard=9):
    """`samples`: (key, source, speaker, codes); the text is a number."""
    with ShardWriter(folder, "tokens", HEADER, samples_per_shard) as writer:
        for number, (key, source, speaker, codes) in enumerate(samples):
            about = {"text": str(number), "speaker": speaker, "source": source, "language": "en"}
            files = {"codes.npy": np.array(codes, dtype=np.uint16), "json": json.dumps(about).encode()}
            writer.write(key, files, len(codes), about["text"])
    return ShardIndex.load(folder, "tokens")


def as_of_before(index, with_numbers=True):
    """Rewrite the index in its former formats: bare names numbered over all sources, including "", or no numbers."""
    arrays = dict(np.load(index.folder / "index.npz"))
    reader, numbers = ShardReader(index), {}
    names = [json.loads(reader.read(row)["json"])["speaker"] for row in range(len(index))]
    del arrays["speakers"], arrays["speaker_of"]
    if with_numbers:
        arrays["speaker_of"] = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    np.savez(index.folder / "index.npz", **arrays)
    return ShardIndex.load(index.folder, index.kind)


# ------------------------------------------------------------------------------------------------------------- told


@pytest.fixture(scope="module")
def two_speakers(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    for split in ("train", "test"):
        write_tokens(folder / split, [
            (f"{name}{number}", "toys", name, generator.choice(OF_SPEAKER[name], 6))
            for number in range(60) for name in OF_SPEAKER
        ])  # fmt: skip
    return folder


def share_in_voice(model, speaker):
    """Fraction of the codes sampled for a prompt with `speaker` that belong to that speaker."""
    data = PromptDataModule(model.prompt_format, speaker=speaker, text="12")
    (batch,) = data.predict_dataloader()
    sampler = model.sampler(SamplingSettings())
    children = sampler.extend(sampler.start(batch.prompts), 32, 4, list(range(32)))
    codes = torch.cat([child.codes_S for child in children]).tolist()
    assert len(codes) > 64
    return np.mean([code in OF_SPEAKER[speaker] for code in codes])


@pytest.mark.parametrize("tasks", [None, [SpeakTask()]], ids=["default", "tasks"])
@pytest.mark.parametrize("given", [{"prefix": "{speaker}: "}, {"answer_prefix": "Speaker {speaker} "}], ids=str)
def test_samples_are_in_the_requested_voice(two_speakers, given, tasks):
    """Guards against a speaker given in training but not in inference, or the reverse: then half of the samples, or
    all, are in the wrong voice."""
    form = TextToSpeech(ByteTokenizer(), 32, **given)
    torch.manual_seed(0)
    model = LMModule(form, LlamaSize(32, 64, 1, 2, 2), optimizer=lambda weights: torch.optim.AdamW(weights, lr=1e-2))
    data = TokenDataModule(two_speakers, form, 128, batch_size=4, num_batches=60, num_validation_rows=2, tasks=tasks)
    Trainer(
        accelerator="cpu", max_steps=60, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0,
    ).fit(model, data)  # fmt: skip
    model.eval()
    with torch.inference_mode():
        for speaker in OF_SPEAKER:
            assert share_in_voice(model, speaker) > 0.95


def test_prompts_have_the_speaker_of_the_shards_or_the_caller(tmp_path):
    """Guards against a speaker lost between shards and model, and another speaker's recording as reference."""
    for name in OF_SPEAKER:
        write_wavs(tmp_path / name, name)
    sources = [FolderSource(tmp_path / name, name, "fr", split="test") for name in OF_SPEAKER]
    prepare_audio_shards(sources, tmp_path / "audio", 16000, "wav")
    form = TextToSpeech(ByteTokenizer(), 32, prefix="{language} {speaker}: ")

    def prompts(**given):
        data = PromptDataModule(form, tmp_path / "audio", prompt_sets={"all": "test"}, **given)
        return [prompt for batch in data.test_dataloader()[0] for prompt in batch.prompts]

    by_shards = prompts()
    assert Counter((prompt.speaker, prompt.language) for prompt in by_shards) == {("ann", "fr"): 3, ("bob", "fr"): 3}
    assert all(prompt.reference is not None for prompt in by_shards)
    for prompt, before in zip(prompts(speaker="bob", language="en"), by_shards, strict=True):
        assert (prompt.speaker, prompt.told[1], prompt.language, prompt.text) == ("bob", "bob", "en", before.text)
        assert (prompt.reference is not None) == (before.speaker == "bob")
    for prompt, before in zip(prompts(speaker=""), by_shards, strict=True):
        assert prompt.told[1] == "" and prompt.speaker == before.speaker and prompt.reference is not None
    (batch,) = PromptDataModule(form, text="one", speaker="bob", language="fr").predict_dataloader()
    assert [(prompt.speaker, prompt.language) for prompt in batch.prompts] == [("bob", "fr")]
    (batch,) = PromptDataModule(form, text="one").predict_dataloader()
    assert [(prompt.speaker, prompt.language) for prompt in batch.prompts] == [("", "en")]
    spoken = SpokenTexts(None, ["one"], SamplingSettings(), 8, language="fr", speaker="bob")
    assert [(prompt.speaker, prompt.language) for prompt in spoken.prompts] == [("bob", "fr")]


# --------------------------------------------------------------------------------------------------- source and name


def write_wavs(folder, name, num=3):
    """Half a second each, in FolderSource's layout of pairs."""
    folder.mkdir()
    for number in range(num):
        tone = np.sin(np.arange(8000) * (0.05 + 0.01 * number + 0.001 * len(name) + 0.0001 * ord(name[0])))
        soundfile.write(folder / f"{name}_{number}.wav", tone / 2, 16000)
        (folder / f"{name}_{number}.txt").write_text(f"words {number}")


SAMPLES = [
    (f"{source}_{name or 'x'}_{number}", source, name, [1, 2, 3])
    for source, name, num in (("a", "1", 4), ("b", "1", 3), ("a", "", 2), ("b", "", 2), ("a", "2", 1), ("b", "3", 2))
    for number in range(num)
]


def partners(voices, num_samples):
    """Sample -> every sample that is drawn as its voice."""
    found, generator = defaultdict(set), np.random.default_rng(0)
    for _ in range(200):
        for sample, voice in enumerate(voices.draw(np.arange(num_samples), generator).tolist()):
            found[sample] |= {voice} - {-1}
    return found


def naive_partners(unknown):
    """By comparing every pair."""
    found = defaultdict(set)
    for one, (_, source, name, _) in enumerate(SAMPLES):
        for other, (_, other_source, other_name, _) in enumerate(SAMPLES):
            if one != other and (source, name) == (other_source, other_name) and (name or unknown == "one_voice"):
                found[one].add(other)
    return found


@pytest.mark.parametrize("written", ["today", "before", "long before"])
def test_voices_are_those_of_one_source_and_name(tmp_path, written, caplog):
    """Guards against pairing different speakers: two sources' speakers of one name, and unknown speakers."""
    index = write_tokens(tmp_path, SAMPLES)
    if written != "today":
        index = as_of_before(index, with_numbers=written == "before")
    with pytest.raises(ValueError, match=r"names? its speaker, but got 4 of 14 that do not, such as 'a_x_0'"):
        VoiceCloning().voices(index)
    assert ("older than the rule" in caplog.text) == (written != "today")
    for unknown in ("leave_out", "one_voice"):
        voices = VoiceCloning(unknown_speakers=unknown).voices(index)
        naive = naive_partners(unknown)
        assert {row: rows for row, rows in partners(voices, len(index)).items() if rows} == dict(naive)
        adding = np.random.default_rng(1).integers(1, 99, len(index))
        for row, shortest in enumerate(voices.shortest(adding).tolist()):
            others = naive.get(row, set())
            assert (shortest == -1) == (not others)
            assert not others or adding[shortest] == min(adding[list(others)])


def test_a_damaged_sample_of_an_older_index_is_not_used_as_a_voice(tmp_path):
    """Guards against one damaged sample that stops voice cloning, or counts as an unknown speaker."""
    index = as_of_before(
        write_tokens(tmp_path, [("a0", "s", "ann", [1]), ("a1", "s", "ann", [1]), ("a2", "s", "ann", [1])])
    )
    path = tmp_path / index.shards[0]
    content = bytearray(path.read_bytes())
    content[index.offsets[1] : index.offsets[1] + 600] = b"\0" * 600
    path.write_bytes(content)
    voices = Voices(speaker_groups(index, "refuse"))
    assert partners(voices, 3) == {0: {2}, 1: set(), 2: {0}}


def test_an_audio_index_names_the_speakers_of_its_json(tmp_path):
    """Guards against an audio index in which all recordings have one speaker."""
    given = {"one": "1", "two": "1", "three": ""}
    sources = []
    for name, speaker in given.items():
        write_wavs(tmp_path / name, name)
        sources.append(FolderSource(tmp_path / name, speaker, split="test"))
    index = prepare_audio_shards(sources, tmp_path / "audio", 16000, "wav")["test"]
    speakers, reader = speakers_of(index), ShardReader(index)
    for row in range(len(index)):
        about = json.loads(reader.read(row)["json"])
        assert speakers.names[speakers.number_of[row]] == (about["source"], about["speaker"])
    assert len(set(speakers.number_of.tolist())) == 3 and speakers.is_unknown_N.sum() == 3


# ------------------------------------------------------------------------------------------------- chosen by hash


def test_a_few_prompts_are_of_all_sources(tmp_path):
    """Guards against prompt sets and validation of one source and one speaker: the first by key."""

    def chosen(folder, names, number):
        sources = [FolderSource(tmp_path / name, name, split="test") for name in names]
        prepare_audio_shards(sources, folder, 16000, "wav")
        form = TextToSpeech(ByteTokenizer(), 32)
        prompts = PromptDataModule(form, folder, prompt_sets={"all": "test"}, num_prompts=number).test_dataloader()[0]
        data = AudioDataModule(folder, validation_split="test", num_validation_samples=number)
        data.trainer = Trainer(accelerator="cpu", logger=False)
        heard = sorted(key for batch in data.val_dataloader() for key in batch.keys)
        return [prompt.key for batch in prompts for prompt in batch.prompts], heard

    for name, num in (("a", 30), ("b", 60)):
        write_wavs(tmp_path / name, name, num)
    prompts, heard = chosen(tmp_path / "one", ("a", "b"), 30)
    keys = ShardIndex.load(tmp_path / "one/test", "audio").keys.tolist()
    by_hand = sorted(sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())[:30])
    assert prompts == heard == by_hand
    assert 6 <= sum(key.startswith("a") for key in prompts) <= 14, "a third of the recordings are of source a"
    assert chosen(tmp_path / "other", ("b", "a"), 30) == (prompts, heard), "the order of adding does not matter"
    assert set(chosen(tmp_path / "other", ("b", "a"), 40)[0]) > set(prompts), "a larger set holds a smaller one"
    assert chosen(tmp_path / "one", ("a", "b"), 0)[0] == sorted(keys)


def test_validation_rows_are_of_all_sources(tmp_path):
    """Guards against a validation loss of the first window, which a single source may fill."""
    samples = [(f"{source}{number}", source, "x", [place] * 20)
               for place, source in enumerate("ab") for number in range(1030)]  # fmt: skip
    write_tokens(tmp_path / "test", samples, samples_per_shard=1030)
    form = TextToSpeech(ByteTokenizer(), 32)
    for tasks in (None, [SpeakTask()]):
        data = TokenDataModule(tmp_path, form, 128, batch_size=8, num_validation_rows=40, tasks=tasks)
        data.trainer = Trainer(accelerator="cpu", logger=False)
        counts = Counter()
        for batch in data.val_dataloader():
            counts.update((batch.tokens_RL[batch.tokens_RL >= form.token_space.code_offset]).tolist())
        first, second = (counts[form.token_space.code_offset + code] for code in (0, 1))
        assert min(first, second) > max(first, second) / 3 and len(counts) == 2


# ---------------------------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize("given", [{"prefix": "{speaker}: "}, {"answer_prefix": "{speaker} "}], ids=str)
def test_rows_are_planned_for_long_names(tmp_path, given):
    """Guards against rows that overflow, and omitted samples, because a name is longer than planned."""
    samples = [(f"k{number}", "s", "a" * (80 * (number % 2)), [1, 2, 3]) for number in range(70)]
    index, form = write_tokens(tmp_path, samples), TextToSpeech(ByteTokenizer(), 32, **given)
    for rows in (TokenRows(index, form, 200, 0), MixedRows([(SpeakTask(), index)], form, 200, 0, window_size=70)):
        planned = rows.rows(0, 0)
        batch = rows.load(planned)
        assert rows.skipped.number == 0 and sum(map(len, planned)) == 70
        assert sum(int(row.max()) + 1 for row in batch.documents_RL) == 70
    older = TokenRows(as_of_before(index), form, 200, 0)
    batch = older.load(older.rows(0, 0))
    assert older.skipped.number > 0, "an older index does not know the names: counted, and no row overflows"
    assert sum(int(row.max()) + 1 for row in batch.documents_RL) == 70 - older.skipped.number


def test_a_task_keeps_its_share_where_samples_have_no_voice(tmp_path, caplog):
    """Guards against a share that silently falls below its weight: speakers with one recording, and recordings that do
    not fit with another."""
    generator = np.random.default_rng(0)
    lengths = [*generator.integers(5, 60, 30), *[20] * 10, 100]
    names = ["ann", "bob"] * 15 + [f"alone{number}" for number in range(10)] + ["ann"]
    samples = [
        (f"k{row:03d}", "s", name, [1] * int(num)) for row, (name, num) in enumerate(zip(names, lengths, strict=True))
    ]
    index, form = write_tokens(tmp_path, samples), TextToSpeech(ByteTokenizer(), 32)
    rows = MixedRows([(SpeakTask(0.7), index), (VoiceCloning(0.3), index)], form, 112, 0, window_size=50)
    assert "voice_cloning: 11 of 41 samples are left out: 1 need more than 112 tokens, 10 have no second" in caplog.text
    counts, pairs = Counter(), set()
    for window in range(40):
        for row in rows.rows(0, window):
            for task, sample, voice in row:
                counts[task] += 1
                if task == 1:
                    pairs.add((sample, voice))
                    assert names[sample] == names[voice] and sample != voice
    assert abs(counts[0] - 0.7 * 40 * 50) <= 1 and abs(counts[1] - 0.3 * 40 * 50) <= 1
    assert {sample for sample, _ in pairs} == set(range(30)) and len(pairs) > 200
