# shellcheck shell=bash
# Sourced by try_requeue.sh and try_sweep.sh: the cluster of local_cluster.sh, and jobs on it.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
PYTHON=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
CLUSTER=${CLUSTER:-runs/slurm_cluster}
FOLDER=runs/slurm_trial/$(date +%Y%m%d-%H%M%S)
export PYTHON CLUSTER MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}

say() { printf '%s %s\n' "$(date +%T)" "$*"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Starts the cluster if it is not running, and then stops it at the end.
use_cluster() {
    if ! studies/slurm/local_cluster.sh status >/dev/null 2>&1; then
        studies/slurm/local_cluster.sh start
        trap 'studies/slurm/local_cluster.sh stop' EXIT
    fi
    SLURM_CONF=$(cd "$CLUSTER" && pwd)/slurm.conf
    export SLURM_CONF
    mkdir -p "$FOLDER"
    say "$(sinfo --version), $("$PYTHON" -c 'import torch, lightning as l; print("torch", torch.__version__, "lightning", l.__version__)')"
}

# submit NAME OPTIONS OF SBATCH, FILE, ITS ARGUMENTS: prints the job's number. Tasks without a GPU, one a node.
submit() {
    local name=$1
    shift
    sbatch --parsable --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --output="$FOLDER/$name.out" "$@"
}

# field JOB NAME: a field of scontrol's output about the job; a line for each task of an array
field() { scontrol --oneliner show job "$1" | grep -oP "(?<= $2=)[^ ]*"; }

# check JOB NAME: fails if the job has failed
check() {
    local state
    state=$(field "$1" JobState)
    if [[ $state =~ FAILED|CANCELLED|NODE_FAIL|OUT_OF_MEMORY|TIMEOUT|BOOT_FAIL|DEADLINE ]]; then
        tail -n 30 "$FOLDER/$2.out" >&2 || true
        fail "job $1 ($2) did not end well: ${state//$'\n'/, }"
    fi
}

# await_end JOB NAME
await_end() {
    until [[ $(field "$1" JobState | sort --unique) == COMPLETED ]]; do
        check "$@"
        sleep 1
    done
}
