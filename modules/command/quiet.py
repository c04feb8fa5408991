"""Silences messages that carry no information about a run."""

import logging
import warnings


def is_no_tip(record: logging.LogRecord) -> bool:
    """Return False for Lightning's advertisements of other packages."""
    return "💡 Tip" not in str(record.msg)


def quieten() -> None:
    """Silence messages that carry no information about a run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_tip)
    # A deprecation of torch, inside Lightning.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # A deprecation of jsonargparse, inside Lightning.
    warnings.filterwarnings("ignore", message=r"\s*skip_none parameter was deprecated")
    # Audio is prepared beforehand and read sequentially: on few cores, workers would only compete with torch.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    # The codec uses manual optimization; its checkpoints are saved after the step on purpose.
    warnings.filterwarnings("ignore", message=r".*no pre-optimization state was saved.*")
    # A resumed run finds its own checkpoints; a later stage loads them without the callbacks that wrote them.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks.*")
    # The recordings of prompts stay on the CPU; our loaders plan whole batches, which have no indices.
    warnings.filterwarnings("ignore", message=r"You have overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", message=r"Couldn't infer the batch indices.*")
    # Demo epochs are short; the config sets the logging interval.
    warnings.filterwarnings("ignore", message=r".*The number of training batches .* is smaller than the logging.*")
