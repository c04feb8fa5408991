"""`python run.py say`: speaks a text with a trained or released model. The text is never read as YAML."""

import argparse
import contextlib
import errno
import math
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import cuda
from transformers.utils.logging import disable_progress_bar

from modules.api import Audio
from modules.atomic_file import write_whole
from modules.command.line import REPOSITORY, root_folder
from modules.command.messages import OneLineParser
from modules.command.option_file import option_words
from modules.frontend.script import Script, read_script, text_of_bytes
from modules.provenance import digest
from modules.speech.narration import Narration
from modules.speech.result import SpeechFile, SpokenSentence, Timeline, check_free, format_of, write_record
from modules.speech.settings import SEARCHES, SpeakingSettings
from modules.speech.subtitles import cues, srt
from modules.speech.voice import Voice, load_voice, placeable

EXAMPLES = """\
  python run.py say "four two"                                        the newest trained voice
  python run.py say "Good morning." --model HKUSTAudio/Llasa-1B --voice me.wav
  python run.py say --file chapter.txt --best-of 8 --out book.wav --srt book.srt
  echo "four two" | python run.py say - --stream | aplay
"""
UNKNOWN_SIZE = 0xFFFFFFFF  # of a wav that is written before its length is known
NAME_CHARACTERS = 40


def positive(word: str) -> float:
    """A number above 0. Raises ArgumentTypeError for others, NaN and infinity."""
    with contextlib.suppress(ValueError):
        if 0 < float(word) < math.inf:
            return float(word)
    raise argparse.ArgumentTypeError(f"Expected a number above 0, but got {word!r}.")


def count(word: str) -> int:
    """A whole number of at least 1. Raises ArgumentTypeError."""
    with contextlib.suppress(ValueError):
        if int(word) > 0:
            return int(word)
    raise argparse.ArgumentTypeError(f"Expected a whole number of at least 1, but got {word!r}.")


def device(word: str) -> str:
    """The name of a device that is here. Raises ArgumentTypeError."""
    names = [
        "auto",
        "cpu",
        *(["cuda", *map("cuda:{}".format, range(cuda.device_count()))] if cuda.is_available() else []),
    ]
    if word not in names:
        raise argparse.ArgumentTypeError(f"Expected one of {', '.join(names)}, but got {word!r}.")
    return word


def parser() -> OneLineParser:
    options = OneLineParser(
        prog="run.py say",
        description="Speak a text: `say TEXT`, `say --file FILE`, or `say -` for standard input.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("text", nargs="*", help="what is spoken, as typed; - reads standard input")
    options.add_argument("--config", type=Path, action="append", default=[], help="yaml of these options: `best-of: 4`")
    options.add_argument("--file", type=Path, help="read the text from a file")
    options.add_argument("--model", help="run folder, exported folder, checkpoint or hub name; default: the newest run")
    options.add_argument("--codec", help="the model's codec, where it does not name it: file, folder or hub name")
    options.add_argument("--voice", type=Path, help="recording whose voice is imitated (see docs/consent.md)")
    options.add_argument("--voice-text", help="what is said in it; default: transcribed")
    options.add_argument("--speaker", default="", help="name of a speaker, for models trained with names")
    options.add_argument("--language", default="en", help="language of the text (default: en)")
    options.add_argument("--out", type=Path, help="wav, flac, ogg or mp3 file; default: runs/speech/NAME.wav")
    options.add_argument("--srt", type=Path, help="also write subtitles")
    options.add_argument("--stream", action="store_true", help="write wav to standard output while sampling")
    options.add_argument("--raw", action="store_true", help="with --stream: 16-bit little-endian samples, no header")
    options.add_argument("--best-of", type=count, help="candidates for each sentence; a recogniser chooses")
    options.add_argument("--search", choices=SEARCHES, default=SEARCHES[0], help="all but best_of_n need --voice")
    options.add_argument(
        "--recogniser", help="Whisper model (size, folder, hub name), for languages other than English"
    )
    options.add_argument("--temperature", type=positive, help="default: the model's own")
    options.add_argument("--seed", type=int, default=0, help="other samples (default: 0)")
    options.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the language model")
    options.add_argument("--device", type=device, default="auto", help="cpu, cuda or auto")
    options.add_argument("--num-threads", type=count, help="CPU threads of torch")
    options.add_argument("--root", type=Path, default=None, help="folder of runs/ (default: the repository)")
    options.add_argument("--verbose", action="store_true", help="show rewritten texts and every candidate's scores")
    return options


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse. The first word is the text, whatever it begins with, unless it is one of the options. As in the keys of a
    yaml and the options of `fit`, `_` in an option's name is `-`."""
    options = parser()
    words = [re.sub(r"^--[a-z_]+(?==|$)", lambda name: name[0].replace("_", "-"), word) for word in words]
    names = set(options._option_string_actions)
    is_option = words and (words[0].partition("=")[0] in names or words[0] == "--")
    if words and not is_option and re.fullmatch(r"--[a-z][a-z-]*(=\S*)?", words[0]):
        options.error(f"Expected a text or one of the options, but got {words[0]}.")
    first = [] if is_option or words[:1] == ["-"] else words[:1]
    given = options.parse_args(words[len(first) :])
    if given.config:
        given = options.parse_args([*words_of_configs(options, given, bool(first)), *words[len(first) :]])
    given.text = [*first, *given.text]
    if bool(given.text) == (given.file is not None):
        options.error('Expected a text, as `say "four two"`, `say --file FILE` or `say -`, and one of them alone.')
    if given.stream and (given.out or given.srt):
        options.error("Expected `--stream` alone, or `--out` and `--srt`: a stream is written to standard output.")
    if given.raw and not given.stream:
        options.error("Expected `--raw` with `--stream`.")
    if given.stream and sys.stdout.isatty():
        options.error("Expected `--stream` to be piped, as in `say - --stream | aplay`: a terminal cannot play it.")
    return given


def words_of_configs(options: OneLineParser, given: argparse.Namespace, has_text: bool) -> list[str]:
    """The options in the files of `--config`, which precede those of the command line. A file is looked for in the
    working folder, below the root, then in the repository."""
    left_out = {"file"} if has_text or given.text else set()
    left_out |= {"out", "srt"} if given.stream else {"stream", "raw"} if given.out or given.srt else set()
    words = []
    try:
        for path in given.config:
            places = [base / path for base in (Path.cwd(), root_folder(given.root), REPOSITORY)]
            found = next((place for place in places if place.is_file()), None)
            if found is None:
                raise ValueError(f"Expected `--config` to be a file, but got {path}.")
            words += option_words(found, options, left_out)
    except (ValueError, OSError) as error:
        options.error(str(error))
    return words


def text_of(given: argparse.Namespace) -> str:
    """The text: from a file, standard input or the command line. Raises ValueError for invalid UTF-8, OSError."""
    if given.file is not None:
        return text_of_bytes(given.file.read_bytes())
    if given.text == ["-"]:
        return text_of_bytes(sys.stdin.buffer.read())
    return text_of_bytes(os.fsencode(" ".join(given.text)))


def main(words: Sequence[str]) -> int:
    """Speak. Returns the exit status; raises what Voice.say raises, before anything is printed or written."""
    given = read_arguments(words)
    settings = SpeakingSettings(
        given.seed, given.best_of, given.search, given.temperature, given.language, given.speaker, given.voice,
        given.voice_text, word_times=not given.stream,
    )  # fmt: skip
    text = text_of(given)
    read_script(text, settings.language)  # an unusable text is refused before models are loaded
    root = root_folder(given.root)
    out = given.out or root / "runs" / "speech" / f"{file_name(text)}-{digest([text, plain_settings(given)])[:8]}.wav"
    format_of(out)
    if not given.stream:
        check_outputs(out, given.srt, [one for one in (given.voice, given.file) if one is not None])
    if given.num_threads is not None:
        torch.set_num_threads(given.num_threads)
    disable_progress_bar()  # of loading weights: an error after it would not stand alone
    said = message_printer(given.stream)
    voice = chosen_voice(given, text, settings, root, said)
    script = voice.script(text, settings)
    parts = out.with_name(f"{out.name}.parts") if len(script.sentences) > 1 and not given.stream else None
    narration = Narration(voice, script, settings, parts)  # checks the words, the recording and the room for both
    introduce(voice, script, settings, given.verbose, said)
    if given.stream:
        return stream(voice, narration, given.raw, said)
    return write(voice, text, narration, out, given, said)


def chosen_voice(
    given: argparse.Namespace, text: str, settings: SpeakingSettings, root: Path, said: Callable[[str], None]
) -> Voice:
    """The voice that is named, or else the newest one; a shipped voice where that knows only other words."""

    def load(name: str | None) -> Voice:
        return load_voice(name, given.codec, given.device, given.precision, given.recogniser, root)

    voice = load(given.model)
    sentences = voice.script(text, settings).sentences
    try:
        voice.check_words(one.text for one in sentences)
    except ValueError:
        shipped = sorted(path.parent for path in (root / "voices").glob("*/voice.json"))
        if given.model is not None or given.codec is not None or not shipped:
            raise
        said(
            f"note: the newest voice, {voice.model.facts.name}, knows {', '.join(voice.model.facts.words or ())} alone"
        )
        voice = load(str(shipped[0]))
    return voice


def check_outputs(out: Path, srt_path: Path | None, inputs: Sequence[Path]) -> None:
    """Check, before models are loaded, that the files can be written and replace none but those of an earlier call.

    Raises ValueError, OSError.
    """
    outputs = [out, out.with_suffix(".json"), *([] if srt_path is None else [srt_path])]
    names = [path.resolve() for path in outputs]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected `--srt` to be another file than the sound and its json, but got {srt_path}.")
    for path in inputs:
        if path.resolve() in names:
            raise ValueError(f"Expected outputs beside the inputs, but {path} is one of them: choose another name.")
    for path in outputs:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        folder = next(one for one in path.absolute().parents if one.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            number = errno.EACCES if folder.is_dir() else errno.ENOTDIR
            raise OSError(number, os.strerror(number), str(folder))
    check_free(out)


def introduce(
    voice: Voice, script: Script, settings: SpeakingSettings, verbose: bool, said: Callable[[str], None]
) -> None:
    """Say which model speaks, in whose voice, and what was made of the text."""
    facts = voice.model.facts
    precision = f"{str(voice.dtype).removeprefix('torch.')} ({voice.precision_reason})"
    said(f"{facts.name}: {facts.num_parameters:,} parameters, codec {facts.codec}, {precision}")
    for note in facts.notes:
        said(f"note: {note}")
    if (reference := voice.reference(settings)) is not None:
        for note in reference.reference.notes:
            said(f"voice: {note}")
        said(f"voice: {reference.reference.audio.seconds:.1f} s, text {reference.reference.text!r}")
    if verbose:
        for one in script.rewritings:
            said(f"reads {one.written!r} as {one.spoken!r}")


def message_printer(to_errors: bool) -> Callable[[str], None]:
    """Prints on standard error if standard output carries audio."""
    return lambda line: print(line, file=sys.stderr if to_errors else sys.stdout, flush=True)


# ---------------------------------------------------------------------------------------------------------------- file


def write(
    voice: Voice, text: str, narration: Narration, out: Path, given: argparse.Namespace, said: Callable[[str], None]
) -> int:
    """Speak into a file; a text of several sentences is resumed where an earlier call stopped."""
    from tqdm import tqdm

    num_sentences = len(narration.tasks)
    started, timeline = time.perf_counter(), Timeline(voice.sample_rate)
    bar = tqdm(total=num_sentences, unit="sentence", disable=num_sentences < 2, file=sys.stderr)
    with bar, SpeechFile(out, voice.sample_rate) as file:
        for one in narration.sentences(bar.update):
            file.append(timeline.place(placeable(one)))
            if isinstance(one, SpokenSentence) and (given.verbose or num_sentences == 1):
                with tqdm.external_write_mode():
                    said(f"{one.text!r}: {one.audio.seconds:.1f} s, {one.about['why']}")
    record = voice.record(text, narration, timeline, time.perf_counter() - started)
    write_record(record, out.with_suffix(".json"))
    if given.srt is not None:
        write_whole(given.srt, srt(cues(timeline.timed)))
    narration.remove_parts()
    for note in dict.fromkeys(narration.notes):
        said(f"note: {note}")
    if unaligned := timeline.unaligned:
        said(f"note: no word times for {len(unaligned)} of {num_sentences} sentences, such as {unaligned[0]}")
    resumed = f", {narration.num_resumed} of them from an earlier call" if narration.num_resumed else ""
    count = f"{num_sentences} sentences{resumed}, " if num_sentences > 1 else ""
    said(f"{shown(out)}: {count}{record['seconds']:.1f} s of speech in {record['compute_seconds']:.1f} s, synthetic")
    for warning in warnings_of(timeline.records):
        said(f"warning: {warning}; `--best-of` or another `--seed` may help")
    return 0


def shown(path: Path) -> Path:
    """The path as seen from the working folder, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def warnings_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the sentences."""
    warnings, number = [], len(records)
    if faulty := [one for one in records if one["faults"]]:
        why = f"{faulty[0]['written'][:60]!r}: {' and '.join(faulty[0]['faults'])}"
        warnings.append(f"no usable candidate for {len(faulty)} of {number} sentences, such as {why}")
    if misheard := [one for one in records if not one["faults"] and one["word_score"] not in (None, 1.0)]:
        how = f"{misheard[0]['written'][:60]!r} as {misheard[0]['heard'].strip()[:60]!r}"
        warnings.append(f"heard with errors: {len(misheard)} of {number} sentences, such as {how}")
    return warnings


def file_name(text: str) -> str:
    """The text as a file name: letters and digits of any script, the rest as underscores."""
    letters = "".join(one if one.isalnum() else "_" for one in text.lower())
    return "_".join(part for part in letters.split("_") if part)[:NAME_CHARACTERS].strip("_") or "speech"


def plain_settings(given: argparse.Namespace) -> dict[str, str]:
    """The options that change the speech."""
    unrelated = {"text", "config", "out", "srt", "verbose", "root", "stream", "raw", "num_threads"}
    return {name: str(value) for name, value in sorted(vars(given).items()) if name not in unrelated}


# -------------------------------------------------------------------------------------------------------------- stream


def stream(voice: Voice, narration: Narration, raw: bool, said: Callable[[str], None]) -> int:
    """Write wav, or raw samples, to standard output while the codes are sampled.

    Raises BrokenPipeError where the reader leaves.
    """
    if narration.settings.searches:
        said("a search is streamed sentence by sentence")
    started, first, num_samples = time.perf_counter(), 0.0, 0
    for num_pieces, piece in enumerate(voice.streamed(narration)):
        first = first if num_pieces else time.perf_counter() - started
        num_samples += piece.samples_T.numel()
        write_samples(sys.stdout.buffer, piece, with_header=not (raw or num_pieces))
    seconds, passed = num_samples / voice.sample_rate, time.perf_counter() - started
    for note in dict.fromkeys(narration.notes):
        said(f"note: {note}")
    said(f"{seconds:.1f} s of speech in {passed:.1f} s, the first after {1000 * first:.0f} ms")
    return 0


def write_samples(output: BinaryIO, audio: Audio, with_header: bool) -> None:
    """16-bit little-endian samples, after a wav header of unknown length."""
    if with_header:
        output.write(wav_header(audio.sample_rate))
    samples_T = (audio.samples_T.clamp(-1, 1) * 32767).round()
    output.write(samples_T.numpy().astype("<i2").tobytes())
    output.flush()


def wav_header(sample_rate: int) -> bytes:
    """44 bytes: RIFF, fmt, data; mono, 16 bit. The sizes are unknown."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + form + struct.pack("<4sI", b"data", UNKNOWN_SIZE)
