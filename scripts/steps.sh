# Sourced by demo.sh, voice.sh and open_voice.sh, in the repository's root: `step NAME ARGUMENTS` runs python with these
# arguments and prints the command and the time it took. PYTHON is the interpreter, that of .venv by default.
# `plan NAME MINUTES [NOTE]` prints what a later step is expected to take; steps then print what is left of the plan.
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

trap 'printf "\nStopped. Start again to continue: finished steps are skipped.\n" >&2' ERR

PLANNED=" " # " NAME:SECONDS ..." of the steps to come
TAKEN=0 EXPECTED=0 # seconds of the planned steps that have run

plan() {
    PLANNED+="$1:$(($2 * 60)) "
    printf '    %-12s %3d min   %s\n' "$1" "$2" "${3:-}"
}

# Minutes of all planned steps to come: as this machine did so far, rounded up.
minutes_left() {
    local one seconds=0
    for one in $PLANNED; do seconds=$((seconds + ${one#*:})); done
    if ((EXPECTED > 0)); then seconds=$((seconds * TAKEN / EXPECTED)); fi
    echo $(((seconds + 59) / 60))
}

step() {
    local name=$1 start=$SECONDS taken expected
    shift
    printf '\n'
    if [[ $PLANNED == *" $name:"* ]]; then printf 'About %d min left.\n' "$(minutes_left)"; fi
    printf '== %s: python %s\n' "$name" "$*"
    "$PYTHON" "$@"
    taken=$((SECONDS - start))
    printf '== %s: %d min %02d s\n' "$name" $((taken / 60)) $((taken % 60))
    if [[ $PLANNED != *" $name:"* ]]; then return; fi
    expected=${PLANNED#*" $name:"} expected=${expected%% *}
    PLANNED=${PLANNED/" $name:$expected "/ }
    # Less than a quarter of the time: the step was finished earlier, and says nothing about this machine.
    if ((taken * 4 >= expected)); then TAKEN=$((TAKEN + taken)) EXPECTED=$((EXPECTED + expected)); fi
}
