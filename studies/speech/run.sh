#!/usr/bin/env bash
# Runs for studies/speech/README.md. Needs `make demo` and the voices of studies/two_directions/run.sh, and a quiet
# machine for the latency; about fifteen minutes. On a GPU: python -m benchmarks.gpu.speech_latency --json
# studies/speech/latency_gpu.json.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

for threads in 1 2; do
    "$PYTHON" -m benchmarks.speech_latency --num_threads $threads --json studies/speech/latency_cpu_$threads.json
done
"$PYTHON" -m benchmarks.alignment --json studies/speech/alignment.json
"$PYTHON" -m studies.speech.long_text
"$PYTHON" -m studies.speech.collect
