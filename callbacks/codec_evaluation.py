"""CodecEvaluation: the codec's table. What is left of held-out recordings after the codec, and after others beside it.

Shapes: B utterances, T audio samples, S code frames.
"""

import csv
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from callbacks.codec_table import (
    Judgement,
    System,
    formatted_table,
    judged,
    summarised,
    write_evaluation,
)
