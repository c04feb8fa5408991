#!/usr/bin/env bash
# Runs for studies/lm_speed/README.md: four benchmarks, each under four minutes of two quiet cores, then the page.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
OUT=runs/results/lm_speed
mkdir -p $OUT

"$PYTHON" -m benchmarks.lm_training_step --num_threads 2 --rounds 2 --json $OUT/lm_training_step.json
"$PYTHON" -m benchmarks.lm_data_path --json $OUT/lm_data_path.json
"$PYTHON" -m benchmarks.lm_overhead --json $OUT/lm_overhead.json
"$PYTHON" -m benchmarks.head_loss --num_tokens 2048 --num_threads 2 --json $OUT/head_loss.json

"$PYTHON" -m studies.lm_speed.collect
