"""Packed rows against each document separately through transformers' own eager attention."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from modules.batches import TokenBatch
from modules.lm import attention
from modules.lm.attention import find_segments
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama

VOCAB_SIZE = 40
attend_short = attention._attend_short
SIZE = LlamaSize(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_key_value_heads=2)


def packed_batch(rows: list[list[list[int]]], row_length: int, num_context: int) -> TokenBatch:
    """Rows of documents; the first `num_context` tokens of each document carry no loss."""
    fills = {"tokens_RL": 0, "labels_RL": -100, "positions_RL": 0, "documents_RL": -1}
    fields = {name: torch.full((len(rows), row_length), fill) for name, fill in fills.items()}
    for r, documents in enumerate(rows):
        start = 0
        for d, document in enumerate(documents):
            end = start + len(document)
            fields["tokens_RL"][r, start:end] = torch.tensor(document)
            fields["positions_RL"][r, start:end] = torch.arange(len(document))
            fields["documents_RL"][r, start:end] = d
            labels = [-100] * (num_context - 1) + document[num_context:] + [-100]
            fields["labels_RL"][r, start:end] = torch.tensor(labels)
            start = end
    return TokenBatch(**fields)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@pytest.fixture
def documents() -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]
        for lengths in ([9, 4, 11], [16], [5, 6])
    ]


def plain_copy(network: LlamaForCausalLM) -> LlamaForCausalLM:
    config = type(network.config)(**{**network.config.to_dict(), "attn_implementation": "eager"})
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(network.state_dict())
    assert plain.config._attn_implementation == "eager"
    return plain


def test_packed_documents_give_the_losses_and_gradients_of_single_ones(documents):
    """Guards against attention between documents, positions that do not restart, and padding that leaks."""
    torch.manual_seed(0)
    model = SpeechLanguageModel(build_llama(SIZE, VOCAB_SIZE))
    plain = plain_copy(model.llama)
    total, num_targets, _ = model(packed_batch(documents, row_length=26, num_context=3))
    total.backward()

    expected, num_expected = torch.zeros(()), 0
    for document in (document for row in documents for document in row):
        logits = plain(torch.tensor([document])).logits[0]
        expected = expected + F.cross_entropy(logits[2:-1], torch.tensor(document[3:]), reduction="sum")
        num_expected += len(document) - 3
    expected.backward()

    assert num_targets == num_expected
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)
    reference = dict(plain.named_parameters())
    for name, parameter in model.llama.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("short", [0, 10, 256])
def test_short_documents_in_bfloat16_are_those_of_float32(documents, short, monkeypatch):
    """Guards against plain products that see later tokens or another head's keys, where they replace the fused kernel
    (of the documents, three of six have at most ten tokens)."""
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "SHORT_DOCUMENT", short)
    model = SpeechLanguageModel(build_llama(SIZE, VOCAB_SIZE))
    for name, weight in model.named_parameters():
        weight.data *= 8 if "q_proj" in name or "k_proj" in name else 1  # no even attention
    batch = packed_batch(documents, row_length=26, num_context=3)
    expected = model(batch).total
    reference = torch.autograd.grad(expected, list(model.parameters()))
    calls = []
    monkeypatch.setattr(attention, "_attend_short", lambda *given: calls.append(1) or attend_short(*given))
    with torch.autocast("cpu", torch.bfloat16):
        total = model(batch).total
    gradients = torch.autograd.grad(total, list(model.parameters()))
    assert len(calls) == SIZE.num_layers * {0: 0, 10: 4, 256: 6}[short]
    torch.testing.assert_close(total, expected, rtol=1e-2, atol=0)
    for (name, _), actual, wanted in zip(model.named_parameters(), gradients, reference, strict=True):
        assert (actual - wanted).norm() < 0.05 * wanted.norm(), name


def test_the_kernel_of_gpus_is_called_once_for_a_row_under_autocast(documents, monkeypatch):
    """Guards against a call for each document in bf16-mixed, where rotated queries and keys are float32."""
    torch.manual_seed(0)
    model = SpeechLanguageModel(build_llama(SIZE, VOCAB_SIZE))
    batch = packed_batch(documents, row_length=26, num_context=3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(batch).total
    dtypes = []

    def kernel(query, key, value, boundaries, max_length, scaling):
        """FlashAttention's signature, by one plain call for each part between boundaries."""
        dtypes.append({query.dtype, key.dtype, value.dtype})
        parts = zip(*(tensor.split(boundaries.diff().tolist()) for tensor in (query, key, value)), strict=True)
        heads = [[part.transpose(0, 1).unsqueeze(0) for part in one] for one in parts]
        outputs = [attention._attend_fused(*one, scaling).squeeze(0).transpose(0, 1) for one in heads]
        return torch.cat(outputs)

    monkeypatch.setattr(attention, "_kernel_takes", lambda device, dtype, head_size: dtype == torch.bfloat16)
    monkeypatch.setattr(attention, "_variable_length_kernel", lambda: kernel)
    with torch.autocast("cpu", torch.bfloat16):
        total = model(batch).total
    assert dtypes == [{torch.bfloat16}] * SIZE.num_layers
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=0)
    model(batch)
    assert len(dtypes) == SIZE.num_layers  # float32 without autocast


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_of_gpus_has_the_loss_and_gradients_of_the_loop(documents, monkeypatch):
    """Guards against a kernel that attends beyond a document, and gradients that it does not give."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        size = LlamaSize(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_key_value_heads=2)
        model = SpeechLanguageModel(build_llama(size, VOCAB_SIZE))
    batch = packed_batch(documents, row_length=26, num_context=3).to("cuda")
    weights = list(model.parameters())
    with torch.autocast("cuda", torch.bfloat16):
        total = model(batch).total
    gradients = torch.autograd.grad(total, weights)
    monkeypatch.setattr(attention, "_kernel_takes", lambda *given: False)
    expected = model(batch).total
    torch.testing.assert_close(total, expected, rtol=1e-2, atol=0)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, weights), strict=True):
        assert (actual - wanted).norm() < 0.05 * wanted.norm()


def test_the_kernel_of_gpus_takes_what_flash_attention_takes(monkeypatch):
    """Guards against a call that fails on an older GPU, or for heads of other sizes."""
    gpu, half = torch.device("cuda:0"), torch.bfloat16
    for capability, is_new in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, known=capability: known)
        assert attention._kernel_takes(gpu, half, 64) == attention._kernel_takes(gpu, torch.float16, 192) == is_new
        assert not attention._kernel_takes(gpu, half, 60) and not attention._kernel_takes(gpu, half, 200)
        assert not attention._kernel_takes(gpu, torch.float32, 64)
        assert not attention._kernel_takes(torch.device("cpu"), half, 64)


def test_padding_changes_nothing_and_is_finite(documents):
    """Guards against NaN from rows whose keys are all masked, and against padding tokens that documents attend to."""
    torch.manual_seed(0)
    model = SpeechLanguageModel(build_llama(SIZE, VOCAB_SIZE))
    rows = [*documents, []]  # the last row is padding only
    batch = packed_batch(rows, row_length=30, num_context=3)
    before = model(batch).total
    batch.tokens_RL[batch.documents_RL < 0] = 7
    assert torch.equal(model(batch).total, before)
    hidden = model.llama.model(
        input_ids=batch.tokens_RL, position_ids=batch.positions_RL, segments=find_segments(batch.documents_RL)
    ).last_hidden_state
    assert hidden.isfinite().all()


def test_segments_are_the_runs_of_documents():
    """Guards against a segment that crosses the end of a row if both rows contain a document with the same number."""
    segments = find_segments(torch.tensor([[0, 0, 1, -1], [0, 0, 0, 0], [0, -1, -1, -1]]))
    assert segments.lengths == [2, 1, 1, 4, 1, 3]
    assert segments.is_padding == [False, False, True, False, False, True]
    assert segments.boundaries.tolist() == [0, 2, 3, 4, 8, 9, 12]


def test_plain_rows_match_eager_attention():
    """Guards against non-causal attention where no segments are given (an exported or probed network)."""
    torch.manual_seed(0)
    network = build_llama(SIZE, VOCAB_SIZE)
    tokens = torch.randint(VOCAB_SIZE, (3, 12))
    torch.testing.assert_close(network(tokens).logits, plain_copy(network)(tokens).logits, rtol=1e-5, atol=1e-5)
