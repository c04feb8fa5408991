#!/usr/bin/env bash
# The demo's sweep through the sbatch files, six prompts and two samples each: as one job, as two ranks on two nodes, and
# as an array of two tasks at a time with the report after it. Compares the tables; prints "equal" and exits with 0, or
# the difference and 1.
#
#   studies/slurm/try_sweep.sh
#
# Needs the results of `make demo`, and the SLURM of local_cluster.sh, which it starts and stops if it is not running.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/trial.sh"

# sweep NAME [--array=... | --dependency=...] FILE [ARGUMENTS]: one job's sweep into the folder of that name
sweep() {
    local name=$1 options=()
    shift
    while [[ $1 == --* ]]; do
        options+=("$1")
        shift
    done
    submit "$name" "${options[@]}" "$1" test --config configs/demo/sweep.yaml "${@:2}" --trainer.accelerator cpu \
        --num_threads 1 --data.init_args.num_prompts '[4,2]' --sweep.algorithm.num_candidates 2 \
        --sweep.folder "$FOLDER/${name%_*}"
}

for path in runs/demo/lm/checkpoints/last.ckpt runs/demo/codec/checkpoints/last.ckpt runs/demo/tokens/test/index.json; do
    [[ -e $path ]] || fail "Expected the demo's $path, but it is not there. \`make demo\` makes it."
done
use_cluster

single=$(sweep single scripts/slurm/one_node.sbatch --stage.folder "$FOLDER/single/report")
say "job $single: alone"
await_end "$single" single

ranks=$(sweep ranks --nodes=2 scripts/slurm/many_nodes.sbatch --trainer.num_nodes 2 --stage.folder "$FOLDER/ranks/report")
say "job $ranks: two ranks"
await_end "$ranks" ranks

shares=$(sweep shares --array=0-1 scripts/slurm/sweep_array.sbatch)
merged=$(sweep shares_merged --dependency="afterok:$shares" scripts/slurm/one_node.sbatch --stage.folder "$FOLDER/shares/report")
say "job $shares: an array of two shares; job $merged: its report"
await_end "$shares" shares
say "$(find "$FOLDER/shares/candidates" -name '*.json' | wc -l) prompts are stored"
await_end "$merged" shares_merged
grep -h '^==' "$FOLDER"/*.out

for name in ranks shares; do
    for file in curve.csv candidates.csv; do
        "$PYTHON" -m studies.slurm.compare_tables "$FOLDER/single/report/$file" "$FOLDER/$name/report/$file" ||
            fail "the $file of $name differs from that of one job"
    done
done
say "equal: curve.csv and candidates.csv of one job, of two ranks and of two shares, but for the digits said above"
