#!/usr/bin/env bash
# Runs for studies/demo/README.md in addition to the demo. Run `make demo` first; about an hour and a half on two cores.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
OUT=runs/results

evaluate() { # FOLDER: the codec's table for FOLDER/codec
    "$PYTHON" run.py test --config configs/demo/evaluate_codec.yaml \
        --ckpt_path "$1/codec/checkpoints/last.ckpt" --stage.folder "$1/codec_evaluation"
}

# The demo's codec, trained for 45 minutes: 10,000 updates instead of 3,000, discriminators in the last 37% as in the demo.
"$PYTHON" run.py fit --config configs/demo/codec.yaml --stage.folder $OUT/codec_45min/codec \
    --model configs/voice/codec_model.yaml --trainer.max_steps 10000 --model.init_args.discriminator_start_step 6300 --trainer.val_check_interval 2000
evaluate $OUT/codec_45min

# The demo's codec without discriminators, for as long as the demo trains with them: more updates in the same time.
"$PYTHON" run.py fit --config configs/demo/codec.yaml --stage.folder $OUT/codec_mel_only/codec \
    --trainer.max_steps "${MEL_ONLY_STEPS:-3550}" --model.init_args.discriminator_start_step 1000000
evaluate $OUT/codec_mel_only

# The demo's sweep over all 128 held-out strings of four digits; stored samples are reused.
mkdir -p $OUT/sweep_128
cp -r runs/demo/candidates $OUT/sweep_128/
"$PYTHON" run.py test --config configs/demo/sweep.yaml --stage.folder $OUT/sweep_128/report \
    --sweep.folder $OUT/sweep_128 --data.init_args.num_prompts "[128, 16]" \
    --sweep.final_judges "[]"

# Profiles a training step: the codec without and with discriminators, then the language model.
profile() { # NAME CONFIG OPTIONS: 200 steps under Lightning's profiler
    local name=$1 config=$2
    shift 2
    "$PYTHON" run.py fit --config "$config" --stage.folder $OUT/profile/"$name" --trainer.max_steps 200 \
        --trainer.val_check_interval 1000 --trainer.profiler.class_path lightning.pytorch.profilers.SimpleProfiler \
        --trainer.profiler.init_args.dirpath $OUT/profile --trainer.profiler.init_args.filename "$name" "$@"
}
profile codec_reconstruction configs/demo/codec.yaml --model.init_args.discriminator_start_step 1000000
profile codec_adversarial configs/demo/codec.yaml --model configs/voice/codec_model.yaml --model.init_args.discriminator_start_step 0
profile lm configs/demo/lm.yaml

"$PYTHON" -m studies.demo.collect
