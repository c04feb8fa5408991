# Sourced by demo.sh, voice.sh and open_voice.sh, in the repository's root: `step NAME ARGUMENTS` runs python with these
# arguments and prints the command and the time it took. PYTHON is the interpreter, that of .venv by default.
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

trap 'printf "\nStopped. Start again to continue: finished steps are skipped.\n" >&2' ERR

step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: python %s\n' "$name" "$*"
    "$PYTHON" "$@"
    printf '== %s: %d min %02d s\n' "$name" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
}
