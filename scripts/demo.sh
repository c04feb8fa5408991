#!/usr/bin/env bash
# Runs all stages on recorded speech: recordings -> codec -> tokens -> language model -> sweep -> report.
#
# Every line that starts with `step` is a command that you can run yourself. A finished step is skipped, an unfinished
# one resumes: you can stop with Ctrl-C and start again.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/steps.sh

step preflight scripts/preflight.py

# Prepares audio shards, then trains the codec to encode speech as 50 codes per second and to decode it.
step codec run.py fit --config configs/demo/codec.yaml
# Evaluates the codec: word errors, STOI and PESQ on held-out prompts, compared with Opus (and Codec2 if installed).
step codec_table run.py test --config configs/demo/evaluate_codec.yaml
# Encodes spoken digit strings as token shards: training strings, held-out strings, and longer ones.
step tokens run.py predict --config configs/demo/tokenise.yaml
# Trains a Llama to continue text with codes.
step lm run.py fit --config configs/demo/lm.yaml
# Draws 16 samples for each held-out string; some verifiers select, others judge.
step sweep run.py test --config configs/demo/sweep.yaml

cat <<END

The demo took $((SECONDS / 60)) min. The report, with figures and audio:
    runs/demo/report/index.html
Your own text:
    $PYTHON run.py say "four two"
What can speak here:
    $PYTHON run.py voices
Your own recordings through the codec:
    $PYTHON run.py predict --config configs/demo/resynthesise.yaml --data.init_args.sources.init_args.folder FOLDER
Curves during training:
    $PYTHON -m tensorboard.main --logdir runs
END
