# shellcheck shell=bash
# Sourced by the sbatch files: runs `run.py` on every task, and requeues the job if SLURM is about to end it, that is
#
# - near the time limit: SLURM sends USR1 to the batch shell (#SBATCH --signal=B:USR1@SECONDS);
# - under preemption with a grace period, when the tasks have ended: SLURM does not requeue a job that ends by itself.
#
# Preemption without a grace period, a node failure and `scontrol requeue` need only `#SBATCH --requeue`. In all other
# cases the job ends with the status of the tasks: a failure would recur.

# run_tasks [fit|validate|test|predict|prepare] ARGUMENTS: fit where no subcommand is named. Ends the shell.
run_tasks() {
    local subcommand=fit python status=0
    cd "${SLURM_SUBMIT_DIR:?is set by sbatch}" || exit 2
    [[ -f run.py ]] || give_up "Expected sbatch to be called in the folder of run.py, but got $SLURM_SUBMIT_DIR."
    case ${1:-} in fit | validate | test | predict | prepare)
        subcommand=$1
        shift
        ;;
    esac
    # An array task needs both numbers: the last task's own job id equals the array's, and would requeue the whole array.
    JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    JOB=${JOB:-$SLURM_JOB_ID}
    python=$(interpreter)
    # The first node's name as SLURM resolves it; Lightning's own parser supports only simple node lists.
    export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since 22.05 srun does not inherit it from sbatch
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK} PYTHONUNBUFFERED=1
    printf '== %s: job %s, attempt %s on %s: run.py %s\n' "$(date '+%F %T')" "$JOB" \
        $((${SLURM_RESTART_COUNT:-0} + 1)) "$SLURM_JOB_NODELIST" "$subcommand $*"

    # In the background, because bash runs a trap only between commands. A failing rank ends the others.
    trap 'interrupted=yes; requeue "the time limit is near"' USR1
    srun --kill-on-bad-exit=1 "$python" run.py "$subcommand" "$@" --config configs/slurm.yaml &
    while
        interrupted=
        status=0
        wait $! || status=$?
        [[ $interrupted ]]
    do :; done
    if ((status)) && is_preempted; then
        requeue "it is preempted"
        sleep 60 # wait for SLURM to end this shell; a job that ends by itself is not requeued
    fi
    printf '== %s: job %s ended with status %d\n' "$(date '+%F %T')" "$JOB" "$status"
    exit "$status"
}

# requeue REASON
requeue() {
    local limit=${MAX_REQUEUES:-100}
    if ((${SLURM_RESTART_COUNT:-0} >= limit)); then
        printf '== job %s: %s, but it was put back %d times already (MAX_REQUEUES)\n' "$JOB" "$1" "$limit"
        return 0 # a plain `return` would return the status of the command that the signal interrupted
    fi
    printf '== %s: job %s goes back into the queue: %s\n' "$(date '+%F %T')" "$JOB" "$1"
    scontrol requeue "$JOB" || printf '== job %s: scontrol refused; it goes on to its end\n' "$JOB"
}

# Returns 0 if SLURM has marked this attempt for preemption; ignores the mark of an earlier attempt.
is_preempted() {
    local job start
    job=$(scontrol --oneliner show job "$JOB") || return 1
    [[ $job =~ \ JobState=RUNNING\  && $job =~ \ StartTime=([^ ]+) ]] || return 1
    start=${BASH_REMATCH[1]}
    [[ $job =~ \ PreemptTime=([0-9][^ ]+) && ${BASH_REMATCH[1]} > $start ]]
}

interpreter() {
    local python=${PYTHON:-python3}
    [[ -z ${PYTHON:-} && -x .venv/bin/python ]] && python=.venv/bin/python
    printf '%s' "$python"
}

give_up() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}
