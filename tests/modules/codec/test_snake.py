"""The implementations of the alias-free snake against convolutions: sums over phases, compiled or not; tiles; the
Triton kernel."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from modules.codec.parts import alias_free_snake as activations
from modules.codec.parts import snake_tiled
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.alias_free_snake import AliasFreeSnake
from modules.codec.parts.snake import by_convolution, by_phases

without_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def activation_and_input(*shape: int) -> tuple[AliasFreeSnake, torch.Tensor]:
    activation = AliasFreeSnake(shape[1])
    nn.init.normal_(activation.alpha)
    nn.init.normal_(activation.beta)
    return activation, 2 * torch.randn(shape)


@pytest.mark.parametrize("lengths", [None, (9, 1, 4, 0)], ids=["whole", "lengths"])
@pytest.mark.parametrize("num_samples", [1, 2, 3, 9, 40])
def test_sums_over_phases_are_the_convolutions(num_samples, lengths):
    """Guards against a tap or an edge that is off by one, in the values or in any gradient."""
    activation, x_BCT = activation_and_input(4, 3, num_samples)
    activation, x_BCT = activation.double(), x_BCT.detach().double().requires_grad_()
    lengths_B = None if lengths is None else torch.tensor(lengths).clamp(max=num_samples)
    weight_BCT = torch.randn(x_BCT.shape, dtype=torch.float64)
    results = []
    for form in (by_convolution, by_phases):
        y_BCT = form(x_BCT, activation.alpha, activation.beta, activation.taps, lengths_B)
        results.append([y_BCT, *torch.autograd.grad(y_BCT, [x_BCT, activation.alpha, activation.beta], weight_BCT)])
    for given, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_samples", [1, 11, 12, 13, 33, 300])
def test_tiles_are_the_convolutions(num_samples, monkeypatch):
    """Guards against a tap, an edge, a block or a tile that is off by one, and an item that depends on its batch."""
    monkeypatch.setattr(snake_tiled, "TILE", 1400)  # two channels of 300 samples
    activation, x_BCT = activation_and_input(4, 5, num_samples)
    activation, x_BCT = activation.double(), x_BCT.double()
    lengths_B = torch.tensor([num_samples, num_samples // 2, 1, 0])
    settings = activation.alpha, activation.beta, activation.taps
    with torch.no_grad():
        for lengths in (None, lengths_B):
            expected = by_convolution(x_BCT, *settings, lengths)
            torch.testing.assert_close(snake_tiled.by_tiles(x_BCT, *settings, lengths), expected, rtol=1e-9, atol=1e-9)
        alone = snake_tiled.by_tiles(x_BCT[1:2, :, : num_samples // 2], *settings)
        assert torch.equal(snake_tiled.by_tiles(x_BCT, *settings, lengths_B)[1, :, : num_samples // 2], alone[0])


def test_tiles_are_used_without_gradient(monkeypatch):
    """Guards against training through a form without gradient, and encoding by the slow one."""
    used = []
    monkeypatch.setattr(activations, "by_tiles", lambda x_BCT, *rest: used.append(x_BCT) or x_BCT)
    activation, x_BCT = activation_and_input(1, 3, 40)
    activation(x_BCT).sum().backward()
    assert activation.alpha.grad is not None and not used
    with torch.inference_mode():
        activation(x_BCT)
    assert used


def test_a_compiler_sees_the_sums_in_one_graph():
    """Guards against convolutions, which compilers do not fuse, and against graph breaks."""
    activation, x_BCT = activation_and_input(2, 3, 40)
    lengths_B = torch.tensor([40, 7])
    operations = []

    def backend(graph, inputs):
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(activation, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x_BCT, lengths_B), activation(x_BCT, lengths_B), rtol=1e-5, atol=1e-5)
    assert operations and not [name for name in operations if "conv" in name]


def test_compiled_activations_give_the_encoder_the_same_numbers(monkeypatch):
    """Guards against an option that compiles nothing, a graph per layer, and other values or gradients.

    Inductor's code for the gradients takes half a minute to compile: benchmarks/acoustic_encoder.py compares it.
    """
    compiled = torch.compile(by_phases, dynamic=True, backend="aot_eager")
    monkeypatch.setattr(activations, "compiled_by_phases", lambda: compiled)
    encoders = [
        AcousticEncoder(strides=[2, 4], base_channels=4, channels=8, compile_activations=switch)
        for switch in (False, True)
    ]
    encoders[1].load_state_dict(encoders[0].state_dict())
    audio_BT, num_samples_B = torch.randn(2, 160), torch.tensor([160, 75])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    results = []
    for encoder in encoders:
        latent_BSC = encoder(audio_BT, num_samples_B).latent_BSC
        results.append([latent_BSC, *torch.autograd.grad(latent_BSC.square().sum(), list(encoder.parameters()))])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs == (encoder is encoders[1]), "one graph serves all activations"
    for given, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_switch_compiles_with_inductor():
    """Guards against code that the default compiler rejects or compiles incorrectly; values only, to be fast."""
    activation, x_BCT = activation_and_input(2, 3, 40)
    activation.compiled = True
    with torch.no_grad():
        expected = by_convolution(x_BCT, activation.alpha, activation.beta, activation.taps)
        torch.testing.assert_close(activation(x_BCT), expected, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["inductor"], "nothing was compiled"


@without_triton
def test_the_kernel_gives_what_convolutions_give():
    """Guards against wrong edges, lengths, chunks or gradients, in float32 and bfloat16, in Triton's interpreter."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.toys.snake_interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "cases are equal" in run.stdout
    assert "a broken kernel is found out" in run.stdout


@without_triton
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_kernel_compiles_for_a_gpu(direction, tmp_path, monkeypatch):
    """Guards against code that the interpreter accepts and the compiler does not; needs no device."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from modules.codec.parts import snake_triton as snake_kernel
    from modules.codec.parts.snake_cuda import launch_settings

    kernel = getattr(snake_kernel, f"{direction}_kernel")
    settings = {**launch_settings(1, 64)[1], "SPAN": 4}
    constants = {name: settings[name] for name in ("PART", "TAPS", "LANES", "SPAN")}
    kinds = {"lengths_pointer": "*i64", "partial_pointer": "*fp32", "num_channels": "i32", "num_parts": "i32"}
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {name: kinds.get(name, "*bf16") for name in names} | dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": settings["num_warps"]})
    assert "fma.rn.f32" in made.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_what_runs_on_a_gpu(dtype):
    """Guards against convolutions running instead of the kernel, and against errors that the interpreter does not
    show."""
    activation, x_BCT = activation_and_input(3, 5, 5000)
    lengths_B = torch.tensor([5000, 2049, 31])
    expected = activation(x_BCT.to(dtype).float(), lengths_B)
    y_BCT = activation.cuda()(x_BCT.cuda().to(dtype), lengths_B.cuda())
    assert "FusedSnake" in type(y_BCT.grad_fn).__name__
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(y_BCT.float().cpu(), expected, rtol=tolerance, atol=tolerance)
