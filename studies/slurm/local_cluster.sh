#!/usr/bin/env bash
# Starts a SLURM of two nodes on this machine, to test the sbatch files: one CPU per node, no accounting, no systemd.
#
#   studies/slurm/local_cluster.sh start      # prints how to use it
#   studies/slurm/local_cluster.sh status
#   studies/slurm/local_cluster.sh stop
#
# Everything it writes is in CLUSTER (runs/slurm_cluster); an existing SLURM is not affected. Jobs of the
# partition `urgent` preempt and requeue those of `main`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "${CLUSTER:=runs/slurm_cluster}"
CLUSTER=$(cd "$CLUSTER" && pwd)
export SLURM_CONF=$CLUSTER/slurm.conf
SOCKET=$CLUSTER/munge.socket

refuse() {
    printf 'local_cluster.sh: %s\n' "$*" >&2
    exit 1
}

check() {
    local name missing=()
    for name in munged mungekey slurmctld slurmd sbatch; do
        type -P "$name" >/dev/null || missing+=("$name")
    done
    if ((${#missing[@]})); then
        refuse "Expected SLURM and munge, but ${missing[*]} cannot be found. On Debian or Ubuntu, as root:" \
            "apt-get install --no-install-recommends slurm-wlm munge"
    fi
    ((EUID == 0)) || refuse "Expected to run as root, as SLURM's daemons do, but got the user $(id -un)."
    # The address of a socket holds 107 bytes.
    ((${#SOCKET} < 100)) || refuse "Expected a folder with a shorter name, but got $CLUSTER. Set CLUSTER=FOLDER."
}

# 0 if the process of that pid file is alive and has that name.
is_running() {
    local pid
    pid=$(cat "$CLUSTER/$1.pid" 2>/dev/null) && [[ $(ps -o comm= -p "$pid") == "${1%%.*}"* ]]
}

configuration() {
    local host memory
    host=$(hostname -s)
    memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 / 3))
    cat <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits until its old credential has expired.
AuthInfo=socket=$SOCKET,cred_expire=10
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool.%n
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd.%n.pid
SlurmctldLogFile=$CLUSTER/slurmctld.log
SlurmdLogFile=$CLUSTER/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
JobRequeue=1
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=$memory
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=$memory
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=15
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
}

start() {
    check
    if is_running slurmctld; then
        refuse "Expected no cluster in $CLUSTER, but one runs there. \`local_cluster.sh stop\` ends it."
    fi
    mkdir -p "$CLUSTER"/state "$CLUSTER"/spool.n1 "$CLUSTER"/spool.n2
    chmod 755 "$CLUSTER"
    configuration >"$SLURM_CONF"
    [[ -e $CLUSTER/munge.key ]] || mungekey --create --keyfile="$CLUSTER/munge.key"
    if ! is_running munged; then
        munged --force --socket="$SOCKET" --key-file="$CLUSTER/munge.key" --pid-file="$CLUSTER/munged.pid" \
            --log-file="$CLUSTER/munged.log" --seed-file="$CLUSTER/munged.seed" 2>"$CLUSTER/munged.start" ||
            refuse "munged did not start: $(cat "$CLUSTER/munged.start")"
    fi
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for _ in {1..150}; do
        if [[ $(sinfo --noheader --partition=main --format=%t 2>/dev/null) == idle ]]; then
            printf 'Two nodes are up. To use them:\n    export SLURM_CONF=%s MASTER_ADDR=127.0.0.1\n' "$SLURM_CONF"
            return
        fi
        sleep 0.2
    done
    sinfo >&2 || true
    refuse "Expected both nodes to be idle in 30 s, but they are not. The logs are in $CLUSTER."
}

stop() {
    local name pid
    if is_running slurmctld; then
        squeue --noheader --format=%A 2>/dev/null | xargs --no-run-if-empty scancel || true
        for _ in {1..100}; do # the daemons leave running jobs behind
            [[ -z $(squeue --noheader 2>/dev/null) ]] && break
            sleep 0.2
        done
    fi
    for name in slurmd.n1 slurmd.n2 slurmctld munged; do
        is_running "$name" || continue
        pid=$(cat "$CLUSTER/$name.pid")
        kill "$pid"
        for _ in {1..100}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
    done
    echo "The cluster in $CLUSTER is stopped."
}

case ${1:-} in
start) start ;;
stop) stop ;;
status)
    is_running slurmctld || refuse "Expected a cluster in $CLUSTER, but none runs there."
    sinfo
    squeue
    ;;
*) refuse "Expected start, stop or status, but got '${1:-}'." ;;
esac
