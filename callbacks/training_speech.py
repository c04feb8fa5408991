"""TrainingSpeech: held-out sentences, spoken after some hours of a language model's training, on a page."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.evaluation_mode import evaluation_mode
from callbacks.media import log_audio, log_figure
from callbacks.training_end import ended_by_itself
from callbacks.weight_averaging import averaged_weights
from datamodules.shards.samples import name_in, read_about, read_samples, text_of
from datamodules.shards.shards import ShardIndex, chosen_rows
from modules.api import Audio, Codec, Prompt, SamplingSettings
from modules.atomic_file import write_whole
from modules.audio import SYNTHETIC, read_audio, resampled, write_wav
from modules.report.figures import mel_figure
from modules.report.training_page import SpeechColumn, training_page
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.driver import run_searches
from modules.search.identity import check_codec
from modules.search.scorer import Scorer

logger = logging.getLogger(__name__)

TEACHER, CODEC, END = "teacher", "codec", "end"  # folders of wav files, beside those of the hours
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class SpokenAt:
    """When all sentences were spoken: the name of the column and folder, hours of training, step."""

    name: str
    hours: float
    step: int


class TrainingSpeech(Callback):
    """Speaks held-out sentences when the training has lasted for each of `hours`, and at its end (not at a time limit).

    Writes `folder`/speech/{teacher,codec,0.5_h,...,end}/KEY.wav and the self-contained page
    `folder`/report/training_speech.html, whose columns are the recordings, the codec's resyntheses and the model after
    each time. Loggers get audio and mel spectrograms (`val/training_speech/TEXT`).

    Hours are wall time in the training loop, with validations and without the speaking itself, added up over resumed
    runs: checkpoints store them, and the columns so far. Time after the checkpoint that a run resumes from does not
    count. Where one step passes several of `hours`, only the last is spoken.

    Each sentence is sampled once, always with the same seed, from the averaged weights if there are any. Rank zero
    speaks. An error while speaking is logged and does not stop the training. The module provides `sampler(settings)`
    and `prompt_format`; under a sharding strategy nothing is spoken, because whole weights are required.

    Args:
        codec: Decodes codes to audio.
        audio_folder: Audio shards, `audio_folder/SPLIT`: texts and recordings.
        hours: Hours of training.
        num_sentences: Number of sentences, chosen by the hash of their keys.
        sampling: Sampling settings.
        max_new_tokens: Maximum length of a sample.
        split: The held-out split.
        seed: Seed of the samples.
        folder: Output folder; None = the trainer's `default_root_dir`.
        title: The page's headline.

    Raises:
        ValueError: `hours` are not positive or do not ascend; there is no sentence; in a fit, the codec is not the one
            that made the training data.
        FileNotFoundError: In a fit, there are no shards.
    """

    def __init__(
        self,
        codec: Codec,
        audio_folder: Path,
        hours: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0),
        num_sentences: int = 6,
        sampling: SamplingSettings = SamplingSettings(temperature=0.3),  # noqa: B008 (frozen)
        max_new_tokens: int = 600,
        split: str = "held_out",
        seed: int = 0,
        folder: Path | None = None,
        title: str = "A voice in training",
    ) -> None:
        if any(hour <= before for before, hour in zip((0, *hours), hours, strict=False)):
            raise ValueError(f"Expected `hours` that ascend from above 0, but got {list(hours)}.")
        if num_sentences < 1:
            raise ValueError(f"Expected `num_sentences` to be at least 1, but got {num_sentences}.")
        self.codec, self.audio_folder, self.split = codec, Path(audio_folder), split
        self.hours, self.num_sentences = hours, num_sentences
        self.sampling, self.seed = sampling, seed
        self.algorithm = BestOfN(1, max_new_tokens)
        self.folder, self.title = folder, title
        self.prompts: list[Prompt] = []
        self.columns: list[SpokenAt] = []
        self.seconds = 0.0
        self.page: Path | None = None  # set once it is written
        self._last = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the settings before the first step."""
        self.prompts = []
        if pl_module.device_mesh is not None:
            logger.warning("TrainingSpeech is disabled: the model is sharded. Sample from a checkpoint with a sweep.")
        elif not trainer.fast_dev_run:
            fingerprint = getattr(getattr(trainer, "datamodule", None), "codec_fingerprint", "")
            check_codec(self.codec, pl_module.prompt_format.token_space.codebook_size, fingerprint)
            self.prompts = held_out_prompts(self.audio_folder / self.split, self.num_sentences)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.prompts and trainer.is_global_zero:
            try:
                self._write_references(trainer)
            except Exception:
                logger.warning("TrainingSpeech: the recordings could not be written.", exc_info=True)
        self._last = perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now, before = perf_counter(), self.seconds
        self.seconds += now - self._last
        if due := [hour for hour in self.hours if before < hour * SECONDS_PER_HOUR <= self.seconds]:
            self._speak(trainer, pl_module, f"{due[-1]:g}_h")
            now = perf_counter()
        self._last = now

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Speak at the end; also if the run was killed while it spoke there, and resumes after its last step."""
        if ended_by_itself(trainer) and not (self.columns and self.columns[-1].step == trainer.global_step):
            self._speak(trainer, pl_module, END)
        trainer.strategy.barrier("training_speech")

    def _speak(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        """Add a column, on rank zero. Errors are logged."""
        if not self.prompts or not trainer.is_global_zero:
            return
        try:
            with averaged_weights(trainer, pl_module), evaluation_mode(pl_module), torch.no_grad():
                self._write_clips(trainer, name, self._spoken(pl_module))
            spoken = SpokenAt(name, self.seconds / SECONDS_PER_HOUR, trainer.global_step)
            self.columns = [*(one for one in self.columns if one.name != name), spoken]
            self._write_page(trainer)
        except Exception:
            logger.warning("TrainingSpeech could not speak at step %d.", trainer.global_step, exc_info=True)

    def _spoken(self, pl_module: LightningModule) -> dict[str, Audio]:
        """What the model says now, by key."""
        scorer, sampler = Scorer(self.codec), pl_module.sampler(self.sampling)
        traces = run_searches(self.prompts, self.algorithm, sampler, scorer, [], self.seed)
        samples = [trace.candidates[0] for trace in traces]
        scorer.decode(samples)
        return {one.prompt_key: one.audio for one in samples}

    @torch.no_grad()
    def _write_references(self, trainer: Trainer) -> None:
        recordings = {one.key: one.reference for one in self.prompts}
        self._write_clips(trainer, TEACHER, recordings)
        resyntheses = {key: resynthesised(recording, self.codec) for key, recording in recordings.items()}
        self._write_clips(trainer, CODEC, resyntheses)
        self._write_page(trainer)

    def _write_clips(self, trainer: Trainer, name: str, clips: Mapping[str, Audio]) -> None:
        for prompt in self.prompts:
            audio = clips[prompt.key]
            comment = "" if name == TEACHER else SYNTHETIC
            write_wav(audio, self._root(trainer) / "speech" / name / f"{prompt.key}.wav", comment)
            if audio.samples_T.numel() == 0:
                continue
            kind = f"/{name}" if name in (TEACHER, CODEC) else ""  # all times are steps of one curve
            tag = f"val/training_speech/{prompt.text}{kind}"
            log_audio(trainer.loggers, tag, audio, trainer.global_step)
            if not kind:
                figure = mel_figure([(TEACHER, prompt.reference), (name.replace("_", " "), audio)])
                log_figure(trainer.loggers, tag, figure, trainer.global_step)

    def _write_page(self, trainer: Trainer) -> None:
        columns = [
            SpeechColumn("teacher", "the recording", self._clips(trainer, TEACHER)),
            SpeechColumn("codec", "resynthesis of the recording", self._clips(trainer, CODEC), SYNTHETIC),
        ]
        for one in self.columns:
            note = f"step {one.step:,}" + (f", {one.hours:.2f} h" if one.name == END else "")
            columns.append(
                SpeechColumn(one.name.replace("_", " "), note, self._clips(trainer, one.name), SYNTHETIC),
            )
        page = self._root(trainer) / "report" / "training_speech.html"
        write_whole(page, training_page(self.title, {one.key: one.text for one in self.prompts}, columns))
        self.page = page

    def _clips(self, trainer: Trainer, name: str) -> dict[str, Audio]:
        """The clips on disk, of earlier runs too."""
        folder = self._root(trainer) / "speech" / name
        paths = {one.key: folder / f"{one.key}.wav" for one in self.prompts}
        return {key: read_audio(path) for key, path in paths.items() if path.is_file()}

    def _root(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "columns": [asdict(one) for one in self.columns]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        self.columns = [SpokenAt(**one) for one in state_dict["columns"]]


def held_out_prompts(folder: Path, number: int) -> list[Prompt]:
    """`number` sentences of a folder of audio shards, chosen by the hash of their keys, with their recordings.

    Raises FileNotFoundError if there are no shards, ValueError for damaged ones.
    """
    index = ShardIndex.load(folder, "audio")
    reader, prompts = index.reader(), []
    for row in chosen_rows(index.keys, number):
        files = reader.read(row)
        about = read_about(files)
        recording = Audio(torch.from_numpy(read_samples(index, row, files)), index.header["sample_rate"])
        names = name_in(about, "language"), name_in(about, "speaker")
        prompts.append(Prompt(str(index.keys[row]), text_of(about), *names, reference=recording))
    return prompts


def resynthesised(recording: Audio, codec: Codec) -> Audio:
    """The codec's resynthesis, at its own rate and as long as the recording."""
    samples_T = torch.from_numpy(resampled(recording, codec.facts.input_sample_rate))
    codes_BS, num_codes_B = codec.encode(samples_T.unsqueeze(0), torch.tensor([samples_T.numel()]))
    decoded_BT = codec.decode(codes_BS, num_codes_B).float().cpu()
    return Audio(decoded_BT[0, : round(recording.seconds * codec.facts.sample_rate)], codec.facts.sample_rate)
