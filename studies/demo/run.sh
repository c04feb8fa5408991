#!/usr/bin/env bash
# Runs for studies/demo/README.md in addition to the demo: two more seeds, and profiles of a training step. Run `make demo`
# first; about three quarters of an hour on two cores. Finished stages are skipped.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
OUT=runs/results

# The same demo with other seeds, each in a folder of its own that shares the downloads.
for seed in 1 2; do
    root=$PWD/$OUT/demo_seeds/$seed
    mkdir -p "$root" cache/asterisk
    if [[ ! -e $root/cache ]]; then ln -s "$PWD/cache" "$root/cache"; fi
    SUITE_ROOT=$root SEED=$seed PYTHON=$PYTHON scripts/demo.sh
done

# Profiles a training step.
profile() { # NAME CONFIG: 200 steps under Lightning's profiler
    "$PYTHON" run.py fit --config "$2" --stage.folder $OUT/profile/"$1" --trainer.max_steps 200 \
        --trainer.val_check_interval 1000 --trainer.profiler.class_path lightning.pytorch.profilers.SimpleProfiler \
        --trainer.profiler.init_args.dirpath $OUT/profile --trainer.profiler.init_args.filename "$1"
}
profile codec configs/demo/codec.yaml
profile lm configs/demo/lm.yaml

"$PYTHON" -m studies.demo.collect --seed 0=. --seed 1=$OUT/demo_seeds/1 --seed 2=$OUT/demo_seeds/2
