#!/usr/bin/env bash
# From a folder of recordings with texts to a model that speaks: recordings -> codec -> tokens -> language model -> speech.
#
#   FOLDER=~/my_recordings scripts/voice.sh [OPTIONS OF prepare, such as --hours 10]
#
# Every line that starts with `step` is a command that you can run yourself. A finished step is skipped, an unfinished
# one resumes: you can stop with Ctrl-C and start again.
set -eEuo pipefail
FOLDER=${FOLDER:?names the folder of your recordings}
FOLDER=${FOLDER/#\~/$HOME} # make does not expand it
[[ $FOLDER == /* ]] || FOLDER=$PWD/$FOLDER
export FOLDER
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/steps.sh

echo "A voice from the recordings in $FOLDER: about an hour and a half on two cores, and longer for hours of recordings."
plan prepare 1
plan codec 30
plan tokens 1
plan lm 60

# Converts the recordings to audio shards, with a process for each core; names those that cannot be used.
step prepare run.py prepare --config configs/voice/prepare.yaml "$@"
# Trains the codec to encode the voice as 50 codes per second and to decode it.
step codec run.py fit --config configs/voice/codec.yaml
# Encodes the recordings as token shards.
step tokens run.py predict --config configs/voice/tokenise.yaml
# Trains a Llama to continue text with codes.
step lm run.py fit --config configs/voice/lm.yaml

# Speaks one of the texts: the command that the finished language model names.
command=$("$PYTHON" run.py fit --config configs/voice/lm.yaml | tail -n 1)
eval "step say ${command#*python }"

cat <<END

It took $((SECONDS / 60)) min. Your own text:
$command
END
