#!/usr/bin/env bash
# What studies/lm_speed/README.md shows: four benchmarks, each under four minutes of two quiet cores, then the page.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
export PYTHONPATH=.
OUT=runs/results/lm_speed
mkdir -p $OUT

"$PYTHON" benchmarks/lm_training_step.py --num_threads 2 --rounds 2 --json $OUT/lm_training_step.json
"$PYTHON" benchmarks/lm_data_path.py --json $OUT/lm_data_path.json
"$PYTHON" benchmarks/lm_overhead.py --json $OUT/lm_overhead.json
"$PYTHON" benchmarks/head_loss.py --num_tokens 2048 --num_threads 2 --json $OUT/head_loss.json

"$PYTHON" studies/lm_speed/collect.py
