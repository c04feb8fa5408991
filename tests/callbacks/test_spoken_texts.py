"""SpokenTexts inside a fit: its logged values against all subsets of the same samples, and a run without it."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks.spoken_texts import SpokenTexts
from datamodules.packing import token_batch
from modules.api import SamplingSettings
from modules.lm_module import LMModule
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.driver import run_searches
from modules.search.scorer import Scorer
from tests.toys.lm_toys import FORMAT, SIZE
from tests.toys.search_toys import ToyCodec, ToyVerifier, mean_level

TEXTS = ["one two", "three"]
SAMPLING = SamplingSettings(temperature=1.0)


class Codec(ToyCodec):
    codebook_size = FORMAT.token_space.codebook_size


class Data(LightningDataModule):
    frame_rate = 50.0

    def train_dataloader(self) -> DataLoader:
        generator = np.random.default_rng(0)
        rows = [[FORMAT.example_tokens("text", generator.integers(0, 24, 12))] for _ in range(8)]
        return DataLoader([token_batch([row], 64) for row in rows], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([token_batch([[FORMAT.example_tokens("text", [1, 2, 3])]], 64)], batch_size=None)


def spoken(**changes) -> SpokenTexts:
    settings = {
        "codec": Codec(), "texts": TEXTS, "sampling": SAMPLING, "max_new_tokens": 12, "num_candidates": 3,
        "selector": ToyVerifier("length", lambda samples_T: -float(samples_T.numel())),
        "judge": ToyVerifier("level", mean_level),
    }  # fmt: skip
    return SpokenTexts(**(settings | changes))


def fit(folder, callbacks) -> tuple[LMModule, EventAccumulator]:
    """Eight steps with a validation after every second."""
    torch.manual_seed(0)
    module = LMModule(FORMAT, SIZE)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=2, callbacks=callbacks, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=2, num_sanity_val_steps=1,
        logger=TensorBoardLogger(folder, name="log", version=""),
    )  # fmt: skip
    trainer.fit(module, datamodule=Data())
    events = EventAccumulator(str(folder / "log"))
    return module, events.Reload()


def expected_by_hand(module: LMModule, callback: SpokenTexts, n: int) -> float:
    """Mean over all subsets of n of the three samples of the judge's score of the selected one."""
    verifiers = [callback.selector, callback.judge]
    with torch.no_grad():
        traces = run_searches(callback.prompts, BestOfN(3, 12), module.sampler(SAMPLING), Scorer(Codec()), verifiers, 0)
    means = []
    for trace in traces:
        choices = []
        for subset in itertools.combinations(trace.candidates, n):
            best = max(one.scores["length"] for one in subset)
            equals = [one for one in subset if one.scores["length"] == best]
            scores = [one.scores["level"] if one.stopped else callback.judge.worst_score for one in equals]
            choices.append(np.mean([callback.judge.worst_score if math.isnan(score) else score for score in scores]))
        means.append(np.mean(choices))
    return float(np.mean(means))


def test_logged_samples_are_those_of_the_current_weights(tmp_path):
    """Guards against samples of other weights or seeds, a best-of-n that is not one, and missing values."""
    callback = spoken(every_n_validations=2)
    module, events = fit(tmp_path, [callback])
    scalars = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for n in (1, 3):
        points = scalars[f"val/best_of_n/level/n={n}"]
        assert [step for step, _ in points] == [4, 8]
        assert points[-1][1] == pytest.approx(expected_by_hand(module.eval(), callback, n), abs=1e-5)
    for text in TEXTS:
        assert len(events.Images(f"val/spoken/{text}")) == 2
        assert {f"val/spoken/{text}/one sample", f"val/spoken/{text}/best of 3"} <= set(events.Tags()["audio"])
    assert callback.state_dict() == {"num_validations": 4}  # not counting the sanity check


def test_bits_of_a_second_are_those_of_its_codes(tmp_path):
    """Guards against the end token or the text among the codes, and against nats for bits."""
    module, events = fit(tmp_path, [])
    batch = next(iter(Data().val_dataloader()))
    with torch.no_grad():
        loss = module.eval().network(batch)
    labels = batch.labels_RL[batch.labels_RL != -100]
    codes = loss.losses_N[labels >= FORMAT.token_space.code_offset]
    assert len(codes) == 3 < len(labels)
    expected = float(codes.mean()) / math.log(2) * 50
    assert events.Scalars("val/bits_per_second_of_audio")[-1].value == pytest.approx(expected, rel=1e-5)
    of_all = float(loss.losses_N.sum()) / len(codes) / math.log(2) * 50
    assert of_all > expected
    logged = events.Scalars("val/bits_per_second_of_audio_all_tokens")[-1].value
    assert logged == pytest.approx(of_all, rel=1e-5)


def test_a_batch_without_codes_has_no_weight_and_is_logged():
    """Guards against ranks that log different metrics, whose gathering then mixes two of them, and against text answers
    in the rate."""
    spoken_batch = next(iter(Data().val_dataloader()))
    written = Data().val_dataloader().dataset[0]
    written.labels_RL[written.labels_RL >= FORMAT.token_space.code_offset] = -100
    rates = []
    for batches in ([spoken_batch], [written, spoken_batch], [written]):
        torch.manual_seed(0)
        module = LMModule(FORMAT, SIZE)
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        data = Data()
        data.val_dataloader = partial(DataLoader, batches, batch_size=None)
        trainer.validate(module, datamodule=data, verbose=False)
        rates.append(float(trainer.callback_metrics["val/bits_per_second_of_audio"]))
    assert rates[0] == pytest.approx(rates[1]) and rates[0] > 0
    assert math.isnan(rates[2])


def test_training_is_not_affected(tmp_path):
    """Guards against samples that change the random state of training or leave the model in another mode."""
    with_callback, _ = fit(tmp_path / "one", [spoken()])
    after = torch.get_rng_state()
    without, _ = fit(tmp_path / "other", [])
    assert torch.equal(after, torch.get_rng_state())
    for name, weight in without.state_dict().items():
        assert torch.equal(with_callback.state_dict()[name], weight)


def test_a_selector_does_not_judge(tmp_path):
    """Guards against a selector that judges its own curve."""
    twin = ToyVerifier("twin", mean_level, "hash of level")
    callback = spoken(selector=ToyVerifier("level", mean_level), judge=twin)
    with pytest.raises(ValueError, match="`judge` of another model than the selector's, but twin is that of level"):
        fit(tmp_path, [callback])
    with pytest.raises(ValueError, match="at least one text, but got none"):
        spoken(texts=[])
    with pytest.raises(ValueError, match="2 or more for a selection, but got 1"):
        spoken(num_candidates=1)


def test_a_judge_of_the_selectors_family_is_named_so(tmp_path, caplog):
    """Guards against selection by Whisper tiny and judging by Whisper large without a label."""
    selector, judge = ToyVerifier("small", mean_level), ToyVerifier("large", mean_level)
    selector.families, judge.families = frozenset({"whisper"}), frozenset({"whisper", "ctc"})
    _, events = fit(tmp_path, [spoken(selector=selector, judge=judge)])
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("val/best_of_n")}
    assert tags == {"val/best_of_n/large/n=1", "val/best_of_n/large (of the selector's family)/n=3"}
    assert "the judge large is of the selector's family (whisper)" in caplog.text


def test_another_codec_is_refused_before_the_first_step(tmp_path):
    """Guards against noise that is taken for a bad model."""
    with pytest.raises(ValueError, match="codebook"):
        fit(tmp_path, [spoken(codec=ToyCodec())])
