#!/usr/bin/env bash
# Runs all stages on recorded speech: recordings -> codec -> tokens -> language model -> sweep -> report. At the end the
# trained model speaks digits, and the voice that comes with the repository a sentence of yours:
#
#   make demo SENTENCE="Any English sentence."
#
# Every line that starts with `step` is a command that you can run yourself. A finished step is skipped, an unfinished
# one resumes: you can stop with Ctrl-C and start again. SEED=1 trains with another seed; SUITE_ROOT=FOLDER does
# everything in another folder, beside the earlier run.
set -eEuo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
enter_root
SENTENCE=${SENTENCE:-Nobody has ever said this sentence before.}
SEED=${SEED:-0}

step preflight scripts/preflight.py

# Minutes measured on two cores of an AMD EPYC with AVX-512 bf16 (studies/demo); they do not end a step.
cat <<END

A codec and a language model that speaks digits, trained here from recordings: about 16 min on two cores with AMX or
AVX-512 bf16, half an hour on others. Everything is written to $ROOT/cache and $ROOT/runs/demo.
END
plan codec 6 "4000 updates"
plan codec_table 1
plan tokens 1
plan lm 4 "2000 updates"
plan sweep 4
cat <<END
Progress bars show the time left of a step. You can stop at any time: the same command continues.
Curves meanwhile, in another terminal:
    $PYTHON -m tensorboard.main --logdir $(printf %q "$ROOT/runs")
END

# Prepares audio shards, then trains the codec to encode speech as 50 codes per second and to decode it.
step codec run.py fit --config configs/demo/codec.yaml --seed_everything "$SEED"
# Evaluates the codec: word errors, STOI and PESQ on held-out prompts, compared with Opus (and Codec2 if installed).
step codec_table run.py test --config configs/demo/evaluate_codec.yaml
# Encodes spoken digit strings as token shards: training strings, held-out strings, and longer ones.
step tokens run.py predict --config configs/demo/tokenise.yaml
# Trains a Llama to continue text with codes.
step lm run.py fit --config configs/demo/lm.yaml --seed_everything "$SEED"
# Draws 16 samples for each held-out string; some verifiers select, others judge.
step sweep run.py test --config configs/demo/sweep.yaml
# Speaks digits with the model of these minutes.
step speech run.py say --model runs/demo "four two seven"
# Speaks your sentence with the voice that comes with the repository.
step sentence run.py say --model "$PWD/voices/rms" -- "$SENTENCE" || echo "Your sentence was not spoken: see above."

# Commands to copy, which find this folder from any other run's.
RUN="$PYTHON run.py"
if [[ -n ${SUITE_ROOT:-} ]]; then RUN="SUITE_ROOT=$(printf %q "$ROOT") $RUN"; fi
cat <<END

This call took $((SECONDS / 60)) min. The model that said "four two seven" was trained by the demo, on this machine: it
knows the ten digits and nothing else. Your sentence was spoken by voices/rms, which comes with the repository, trained
before: a voice for any English sentence takes longer than this demo. To make one yourself, in about half an hour:
    make voice HOURS=0.5

The report, with figures and audio:
    $ROOT/runs/demo/report/index.html
Other digits, another sentence:
    $RUN say --model runs/demo "four two"
    $RUN say --model $(printf %q "$PWD/voices/rms") "Any English sentence."
What can speak here:
    $RUN voices
Your own recordings through the codec:
    $RUN predict --config configs/demo/resynthesise.yaml --data.init_args.sources.init_args.folder FOLDER
END
