"""Learning-rate schedules for the optimizers of both LightningModules, stepped once per update."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then cosine decay to a fraction of the peak.

    Args:
        num_warmup_steps: Updates until the peak; below 1: a fraction of `num_steps`.
        num_steps: Updates until the end of the cosine; later ones keep the final rate.
        final_fraction: Final rate divided by the peak.
    """

    def __init__(
        self, optimizer: Optimizer, num_warmup_steps: int | float, num_steps: int, final_fraction: float = 0.02
    ) -> None:
        if 0 < num_warmup_steps < 1:
            num_warmup_steps = max(1, round(num_warmup_steps * num_steps))
        if not 0 <= num_warmup_steps < num_steps:
            raise ValueError(
                f"Expected `num_warmup_steps` in [0, `num_steps`={num_steps}), but got {num_warmup_steps}."
            )

        def factor(step: int) -> float:
            if step < num_warmup_steps:
                return (step + 1) / num_warmup_steps
            progress = min(1.0, (step - num_warmup_steps) / (num_steps - num_warmup_steps))
            return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)


class WarmupLinear(LambdaLR):
    """Quadratic warm-up, then linear decay to a fraction of the peak (X-codec2's schedule).

    Args:
        num_warmup_steps: Updates until the peak.
        num_steps: Updates until the end of the decay; later ones keep the final rate.
        initial_fraction: First rate divided by the peak.
        final_fraction: Final rate divided by the peak.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int,
        num_steps: int,
        initial_fraction: float = 0.1,
        final_fraction: float = 0.2,
    ) -> None:
        if not 0 <= num_warmup_steps < num_steps:
            raise ValueError(
                f"Expected `num_warmup_steps` in [0, `num_steps`={num_steps}), but got {num_warmup_steps}."
            )

        def factor(step: int) -> float:
            if step < num_warmup_steps:
                return initial_fraction + (1 - initial_fraction) * (step / num_warmup_steps) ** 2
            progress = min(1.0, (step - num_warmup_steps) / (num_steps - num_warmup_steps))
            return 1 + (final_fraction - 1) * progress

        super().__init__(optimizer, factor)
