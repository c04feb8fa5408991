#!/usr/bin/env bash
# Runs for studies/new_language/README.md: what minutes of a new language bring, from scratch and from a model of others.
# Needs `make demo` (its codec). WHISPER is a multilingual Whisper for the table of recognisers. Finished stages are
# skipped.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
CONFIGS=configs/lm/new_language
RUNS=runs/new_language

# Recognisers, and their floor.
"$PYTHON" -m datamodules.word_recordings cache/asterisk cache/digit_words
"$PYTHON" -m studies.new_language.recognisers --whisper "${WHISPER:-base}"

# The new language, and four others.
"$PYTHON" run.py predict --config $CONFIGS/tokenise.yaml
"$PYTHON" -m studies.new_language.minutes $RUNS/tokens 1 3 10
"$PYTHON" run.py predict --config $CONFIGS/tokenise.yaml --stage.folder $RUNS/known \
    --data.init_args.folder cache/shards/known_languages --data.init_args.sources.init_args.languages "[en,es,fr,it]"
"$PYTHON" run.py fit --config $CONFIGS/lm.yaml --stage.folder $RUNS/known_lm --num_threads 1 \
    --data.init_args.folder $RUNS/known
if [[ ! -e $RUNS/base/config.json ]]; then
    "$PYTHON" -m modules.speech.export $RUNS/known_lm/checkpoints/last.ckpt $RUNS/base
fi

fit() {  # START AMOUNT SEED OPTIONS
    local split=train_$2 name=$1_$2_$3
    if [[ $2 == all ]]; then split=train; fi
    "$PYTHON" run.py fit --config $CONFIGS/lm.yaml --stage.folder "$RUNS/$name" --num_threads 1 \
        --data.init_args.train_split "$split" --seed_everything "$3" --data.init_args.seed "$3" "${@:4}"
}
for run in "1 0" "3 0" "10 0" "10 1" "10 2" "all 0" "all 1" "all 2"; do
    # shellcheck disable=SC2086  # two words
    fit scratch $run
    # shellcheck disable=SC2086
    fit grown $run --model.init_args.pretrained.source $RUNS/base
done
"$PYTHON" -m studies.new_language.collect
