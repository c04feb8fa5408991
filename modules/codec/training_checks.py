"""What a codec's training refuses before it begins."""

from modules.codec.generator import CodecGenerator


def check_rates(generator: CodecGenerator, datamodule: object) -> None:
    """Raises ValueError where the data's rate is not the one that the codec takes: it would learn other pitches."""
    rate = getattr(datamodule, "sample_rate", generator.input_sample_rate)
    if rate != generator.input_sample_rate:
        raise ValueError(
            f"Expected audio at the rate that the codec takes, {generator.input_sample_rate} Hz, but got `sample_rate`="
            f"{rate} of the data."
        )


def check_training(generator: CodecGenerator, precision: str) -> None:
    """Raises ValueError for a precision or a codec that cannot be trained here."""
    if precision == "16-mixed":
        raise ValueError(
            "Expected `precision` 32-true or bf16-mixed, but got 16-mixed: the discriminator's optimizer is "
            "stepped outside Lightning, which then cannot unscale its gradients."
        )
    if generator.sample_rate != generator.input_sample_rate:
        raise ValueError(
            f"Expected a generator that gives audio at the rate it takes, {generator.input_sample_rate}, to "
            f"train it, but got {generator.sample_rate}: such a codec is loaded and run, not trained, here."
        )
