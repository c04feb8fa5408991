#!/usr/bin/env bash
# The demo's language model through scripts/slurm/many_nodes.sbatch, on two nodes with a CPU task each: once without
# interruption, and once requeued three times, each time for another reason. Compares losses, gradient norms
# and weights bit for bit; prints "equal" and exits with 0, or the first difference and 1.
#
#   studies/slurm/try_requeue.sh
#
# Needs the SLURM of local_cluster.sh, and starts and stops it if it is not running. Trains on the demo's tokens, or on
# noise if there are none. A fast machine, where the run ends too early, needs NUM_STEPS=1000, or more.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/trial.sh"

use_tokens() {
    TOKENS=runs/demo/tokens
    [[ -e $TOKENS/train/index.json && -e $TOKENS/test/index.json ]] && return
    TOKENS=runs/slurm_trial/noise
    [[ -e $TOKENS/test/index.json ]] || "$PYTHON" -m studies.slurm.random_tokens "$TOKENS"
}

# submit_fit NAME
submit_fit() {
    submit "$1" --nodes=2 scripts/slurm/many_nodes.sbatch fit --config configs/demo/lm.yaml \
        --config studies/slurm/trial.yaml --trainer.max_steps "${NUM_STEPS:-144}" \
        --data.init_args.folder "$TOKENS" --stage.folder "$FOLDER/$1"
}

# newest_step NAME: the step of the newest checkpoint
newest_step() {
    local path step newest=0
    for path in "$FOLDER/$1"/checkpoints/*step=*.ckpt; do
        step=${path##*step=}
        step=${step%.ckpt}
        [[ $step =~ ^[0-9]+$ ]] && ((step > newest)) && newest=$step
    done
    echo "$newest"
}

# await_step JOB NAME STEP
await_step() {
    until (($(newest_step "$2") >= $3)); do
        check "$1" "$2"
        [[ $(field "$1" JobState) != COMPLETED ]] || fail "job $1 ended before it could be interrupted at step $3"
        sleep 0.3
    done
    sleep 1 # some steps after the checkpoint
}

# await_restarts JOB NAME COUNT
await_restarts() {
    until (($(field "$1" Restarts) >= $3)); do
        check "$1" "$2"
        [[ $(field "$1" JobState) != COMPLETED ]] || fail "job $1 ended and was not put back into the queue"
        sleep 0.2
    done
    say "job $1 is back in the queue ($(field "$1" Restarts). time), $(newest_step "$2") steps are kept"
}

# shorten JOB: sets its time limit to 3 minutes after the last full one, so that the signal, 180 s before, is due at
# once. SLURM checks every 30 s.
shorten() {
    local seconds
    seconds=$(($(date +%s) - $(date --date "$(field "$1" StartTime)" +%s)))
    scontrol update JobId="$1" TimeLimit=$((seconds / 60 + 3))
}

use_cluster
use_tokens
say "tokens: $TOKENS"

job=$(submit_fit whole)
say "job $job: without interruption"
await_end "$job" whole

job=$(submit_fit requeued)
say "job $job: to be interrupted"
await_step "$job" requeued 12
say "1. scontrol requeue, as an operator does"
scontrol requeue "$job"
await_restarts "$job" requeued 1
await_step "$job" requeued 24
say "2. a job of higher priority takes the nodes"
urgent=$(submit urgent --partition=urgent --nodes=2 --wrap "srun hostname")
await_restarts "$job" requeued 2
await_end "$urgent" urgent
await_step "$job" requeued 36
say "3. the time limit comes near"
shorten "$job"
await_restarts "$job" requeued 3
scontrol update JobId="$job" TimeLimit=60
await_end "$job" requeued
grep -hE '^==|fit starts from' "$FOLDER/requeued.out"
"$PYTHON" -m studies.slurm.compare_runs "$FOLDER/whole" "$FOLDER/requeued" 4
