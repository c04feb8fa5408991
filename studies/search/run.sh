#!/usr/bin/env bash
# Runs for studies/search/README.md: every search on strings of six to eight digits, three times, each with a language
# model, samples and a bootstrap of another seed. Needs the demo's codec (`make demo`); the rest takes about three hours
# of one core. Finished stages are skipped.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
CODEC=runs/demo/codec/checkpoints/last.ckpt

"$PYTHON" run.py predict --config configs/search/tokenise.yaml
for seed in 0 1 2; do
    lm=runs/search/lm_$seed
    "$PYTHON" run.py fit --config configs/search/lm.yaml --num_threads 1 --seed_everything $seed --stage.folder $lm
    "$PYTHON" run.py test --config configs/search/algorithms.yaml --seed_everything $seed \
        --stage.folder runs/search/algorithms_$seed/report --ckpt_path $lm/checkpoints/last.ckpt \
        --stage.inputs "[$lm/checkpoints/last.ckpt, $CODEC, cache/shards/long_digits/hard]" \
        --sweep.seed $seed --sweep.folder runs/search/algorithms_$seed
done
"$PYTHON" -m studies.search.costs --output studies/search/costs.json
"$PYTHON" -m studies.search.collect
