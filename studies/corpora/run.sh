#!/usr/bin/env bash
# Runs for studies/corpora/README.md. Needs `make demo`, and a quiet machine for the throughput; about half an hour on two
# cores.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
export OMP_NUM_THREADS=1

"$PYTHON" -m studies.corpora.layouts
"$PYTHON" -m studies.corpora.kills prepare
"$PYTHON" -m studies.corpora.kills tokenise --num_tars 60 --recordings_per_tar 12
"$PYTHON" -m studies.corpora.processes
"$PYTHON" -m benchmarks.preparation --num_files 2500 --samples_per_unit 200 --rounds 2 \
    --json studies/corpora/preparation.json
OMP_NUM_THREADS=2 "$PYTHON" -m benchmarks.corpus_tokenising --scale 0.25 --num_files 8 --longest_seconds 5 --batch_size 0 \
    --num_processes 2 --json studies/corpora/tokenising.json
"$PYTHON" -m studies.corpora.collect
