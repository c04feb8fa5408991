#!/usr/bin/env bash
# The whole chain on recorded speech: recordings -> codec -> tokens -> language model -> sweep -> report.
#
# Every line that starts with `step` is a command that you can type yourself. A finished step is skipped, an unfinished
# one resumes: stop with Ctrl-C and start again as you like.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

trap 'printf "\nStopped. Start again to go on: finished steps are skipped.\n" >&2' ERR

step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: python %s\n' "$name" "$*"
    "$PYTHON" "$@"
    printf '== %s: %d min %02d s\n' "$name" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
}

step preflight scripts/preflight.py

# Audio shards are prepared, then the codec learns to write speech as 50 codes a second and to read it back.
step codec run.py fit --config configs/demo/codec.yaml
# The codec's table: word errors, STOI and PESQ on held-out prompts, beside Opus (and Codec2 where it is installed).
step codec_table run.py test --config configs/demo/evaluate_codec.yaml
# Spoken digit strings become token shards: strings to train on, held-out strings, and longer ones.
step tokens run.py predict --config configs/demo/tokenise.yaml
# A Llama learns to continue text with codes.
step lm run.py fit --config configs/demo/lm.yaml
# 16 samples for each held-out string, chosen by verifiers, judged by others.
step sweep run.py test --config configs/demo/sweep.yaml

cat <<END

The demo took $((SECONDS / 60)) min. The report, to look at and listen to:
    runs/demo/report/index.html
Your own text:
    $PYTHON run.py predict --config configs/demo/synthesise.yaml --data.init_args.text "four two"
Your own recordings through the codec:
    $PYTHON run.py predict --config configs/demo/resynthesise.yaml --data.init_args.sources.init_args.folder FOLDER
Curves during training:
    $PYTHON -m tensorboard.main --logdir runs
END
