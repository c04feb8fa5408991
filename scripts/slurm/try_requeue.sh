#!/usr/bin/env bash
# The demo's language model through scripts/slurm/many_nodes.sbatch, on two nodes with a CPU task each: once without
# interruption, and once put back into the queue three times, by each way there is. Compares losses, gradient norms
# and weights bit for bit; prints "equal" and exits with 0, or the first difference and 1.
#
#   scripts/slurm/try_requeue.sh
#
# Needs the SLURM of local_cluster.sh, and starts and stops it where it does not run. Learns from the demo's tokens, or
# from noise where there are none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
CLUSTER=${CLUSTER:-runs/slurm_cluster}
FOLDER=runs/slurm_trial/$(date +%Y%m%d-%H%M%S)
export PYTHON CLUSTER MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}

say() { printf '%s %s\n' "$(date +%T)" "$*"; }

fail() {
    printf 'try_requeue.sh: %s\n' "$*" >&2
    exit 1
}

use_cluster() {
    if ! scripts/slurm/local_cluster.sh status >/dev/null 2>&1; then
        scripts/slurm/local_cluster.sh start
        trap 'scripts/slurm/local_cluster.sh stop' EXIT
    fi
    SLURM_CONF=$(cd "$CLUSTER" && pwd)/slurm.conf
    export SLURM_CONF
}

use_tokens() {
    TOKENS=runs/demo/tokens
    [[ -e $TOKENS/train/index.json && -e $TOKENS/test/index.json ]] && return
    TOKENS=runs/slurm_trial/noise
    [[ -e $TOKENS/test/index.json ]] || "$PYTHON" -m scripts.slurm.random_tokens "$TOKENS"
}

# submit NAME: prints the job's number
submit() {
    sbatch --parsable --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --output="$FOLDER/$1.out" \
        scripts/slurm/many_nodes.sbatch fit --config configs/demo/lm.yaml --config scripts/slurm/trial.yaml \
        --data.init_args.folder "$TOKENS" --stage.folder "$FOLDER/$1"
}

# field JOB NAME: of what scontrol says about the job
field() { scontrol --oneliner show job "$1" | grep -oP "(?<= $2=)[^ ]*"; }

# check JOB NAME: fails where the job has failed
check() {
    case $(field "$1" JobState) in
    FAILED | CANCELLED | NODE_FAIL | OUT_OF_MEMORY | TIMEOUT | BOOT_FAIL | DEADLINE)
        tail -n 30 "$FOLDER/$2.out" >&2 || true
        fail "job $1 ($2) did not end well: $(field "$1" JobState), $(field "$1" ExitCode)"
        ;;
    esac
}

# await_end JOB NAME
await_end() {
    until [[ $(field "$1" JobState) == COMPLETED ]]; do
        check "$@"
        sleep 0.5
    done
}

# newest_step NAME: that a checkpoint holds
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
        sleep 0.05
    done
    sleep 1 # some way behind the checkpoint
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

use_cluster
use_tokens
mkdir -p "$FOLDER"
say "$(sinfo --version), $("$PYTHON" -c 'import torch, lightning as l; print("torch", torch.__version__, "lightning", l.__version__)'), tokens: $TOKENS"

job=$(submit whole)
say "job $job: without interruption"
await_end "$job" whole

job=$(submit requeued)
say "job $job: to be interrupted"
await_step "$job" requeued 12
say "1. scontrol requeue, as an operator does"
scontrol requeue "$job"
await_restarts "$job" requeued 1
await_step "$job" requeued 24
say "2. a job of higher priority takes the nodes"
urgent=$(sbatch --parsable --partition=urgent --nodes=2 --ntasks-per-node=1 --output="$FOLDER/urgent.out" --wrap "srun hostname")
await_restarts "$job" requeued 2
await_end "$urgent" urgent
await_step "$job" requeued 36
say "3. the signal that SLURM sends before the time limit"
scancel --batch --signal=USR1 "$job"
await_restarts "$job" requeued 3
await_end "$job" requeued
grep -hE '^(==|0: fit starts)' "$FOLDER/requeued.out"
"$PYTHON" scripts/slurm/compare_runs.py "$FOLDER/whole" "$FOLDER/requeued" 4
