#!/usr/bin/env bash
# Runs for studies/own_voice/README.md: the demo's language model, trained on three voices, is adapted to a fourth.
# Needs `make demo` (its codec is the start of this one); the rest takes about an hour of one core (computed). Finished stages are
# skipped.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
CONFIGS=configs/lm/own_voice
RUNS=runs/own_voice
SAVED=modules.lm.saved_model.SavedModel
declare -A OPTIONS=(
    [lora]=""
    [lora_all]="--model.init_args.adapters.layers [q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj] --model.init_args.optimizer.init_args.lr 2e-3"
    [lora_embeddings]="--model.init_args.adapters.layers [q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj] --model.init_args.adapters.train_embeddings true --model.init_args.optimizer.init_args.lr 2e-3"
    [full]="--model.init_args.adapters null --model.init_args.optimizer.init_args.lr 1e-4"
)

"$PYTHON" -m datamodules.word_recordings cache/asterisk cache/digit_words --languages it
# The demo's codec was trained on one voice and makes every other sound like it: trained on, on all five.
if [[ ! -e $RUNS/codec/checkpoints/last.ckpt ]]; then
    "$PYTHON" run.py fit --config configs/codec/five_voices.yaml --model configs/demo/codec_model.yaml --num_threads 1 \
        --model.init_args.generator null --model.init_args.pretrained.path runs/demo/codec/checkpoints/last.ckpt \
        --stage.folder $RUNS/codec --trainer.max_steps 2000
fi
"$PYTHON" run.py predict --config $CONFIGS/tokenise.yaml
"$PYTHON" run.py predict --config $CONFIGS/tokenise_own.yaml
"$PYTHON" run.py fit --config $CONFIGS/lm.yaml --num_threads 1
if [[ ! -e $RUNS/base/config.json ]]; then
    "$PYTHON" -m modules.speech.export $RUNS/lm/checkpoints/last.ckpt $RUNS/base
fi
for seed in 0 1 2; do
    models="" inputs="$RUNS/lm/checkpoints/last.ckpt, $RUNS/codec/checkpoints/last.ckpt, cache/shards/own_voice/test"
    for method in lora lora_all lora_embeddings full; do
        folder=$RUNS/${method}_$seed
        # shellcheck disable=SC2086  # options are words
        "$PYTHON" run.py fit --config $CONFIGS/adapt.yaml --num_threads 1 --seed_everything $seed \
            --stage.folder $folder ${OPTIONS[$method]}
        for step in 100 200 300 400; do
            models+="{class_path: $SAVED, init_args: {name: ${method}_$step, source: $folder/checkpoints/adapted-step=$step.ckpt}}, "
            inputs+=", $folder/checkpoints/adapted-step=$step.ckpt"
        done
    done
    "$PYTHON" run.py test --config $CONFIGS/voices.yaml --num_threads 1 --sweep.seed $seed \
        --stage.folder $RUNS/voices_$seed --stage.inputs "[$inputs]" --sweep.more_models "[$models]"
done
"$PYTHON" -m studies.own_voice.floor
"$PYTHON" -m studies.own_voice.collect
