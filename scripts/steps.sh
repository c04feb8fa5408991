# Sourced by demo.sh, voice.sh and open_voice.sh: `step NAME ARGUMENTS` runs python with these arguments, in the
# repository's root, and prints the command and the time it took. PYTHON is the interpreter, that of .venv by default.
# `plan NAME MINUTES [NOTE]` prints what a later step is expected to take; steps then print what is left of the plan.
# `enter_root` goes to the repository and sets ROOT, the folder of cache/ and runs/: SUITE_ROOT, which it makes, or the
# repository.
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x $(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

trap 'printf "\nStopped. Start again to continue: finished steps are skipped.\n" >&2' ERR

enter_root() {
    ROOT=${SUITE_ROOT:-}
    if [[ -n $ROOT ]]; then
        ROOT=${ROOT/#\~/$HOME}
        [[ $ROOT == /* ]] || ROOT=$PWD/$ROOT
        mkdir -p "$ROOT"
        export SUITE_ROOT=$ROOT
    fi
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    ROOT=${ROOT:-$PWD}
}

PLANNED=" " # " NAME:SECONDS ..." of the steps to come
TAKEN=0 EXPECTED=0 # seconds of the planned steps that have run

plan() {
    PLANNED+="$1:$(($2 * 60)) "
    printf '    %-12s %3d min   %s\n' "$1" "$2" "${3:-}"
}

# Minutes of all planned steps to come, rounded up; more where this machine has been slower so far. A step that took less
# time may have been resumed or finished earlier: it does not shorten the others.
minutes_left() {
    local one seconds=0
    for one in $PLANNED; do seconds=$((seconds + ${one#*:})); done
    if ((TAKEN > EXPECTED)); then seconds=$((seconds * TAKEN / EXPECTED)); fi
    echo $(((seconds + 59) / 60))
}

step() {
    local name=$1 start=$SECONDS taken expected
    shift
    printf '\n'
    if [[ $PLANNED == *" $name:"* ]]; then printf 'About %d min left (less if this step resumes).\n' "$(minutes_left)"; fi
    printf '== %s: python %s\n' "$name" "$*"
    "$PYTHON" "$@" || return
    taken=$((SECONDS - start))
    printf '== %s: %d min %02d s\n' "$name" $((taken / 60)) $((taken % 60))
    if [[ $PLANNED != *" $name:"* ]]; then return; fi
    expected=${PLANNED#*" $name:"} expected=${expected%% *}
    PLANNED=${PLANNED/" $name:$expected "/ }
    if ((taken > expected / 2)); then TAKEN=$((TAKEN + taken)) EXPECTED=$((EXPECTED + expected)); fi
}
