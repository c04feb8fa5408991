#!/usr/bin/env bash
# Runs for the comparison of formats in studies/voice/README.md: one corpus, two codecs, a language model for each format
# and seed, all with the same number of updates of the same size. Finished stages are skipped. Minutes on one core:
# corpus 8, each codec 25, a language model 25.
#
#   SUITE_ROOT=FOLDER studies/voice/formats.sh corpus codec_25 codec_50 words_0 plain_0 letters_0 words50_0
#   SUITE_ROOT=FOLDER studies/voice/formats.sh corpus codec_25 codec_phonemes words_0 phonemes_0     # the codec's classifier
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/steps.sh
SENTENCES=12000 CODEC_STEPS=5000 LM_STEPS=${LM_STEPS:-1600}
OPEN=configs/voice/open
THREADS=(--num_threads "${THREADS:-1}")

codec() { # NAME [OVERLAY...]: trains, evaluates on the held-out sentences, and encodes
    local overlays=() out=runs/$1 overlay
    for overlay in "${@:2}"; do overlays+=(--config "$OPEN/$overlay"); done
    step "$1 codec" run.py fit --config $OPEN/codec.yaml ${overlays[@]+"${overlays[@]}"} "${THREADS[@]}" --stage.folder "$out/codec" \
        --trainer.max_steps "$CODEC_STEPS"
    step "$1 table" run.py test --config $OPEN/evaluate_codec.yaml ${overlays[@]+"${overlays[@]}"} "${THREADS[@]}" \
        --stage.folder "$out/codec_evaluation" --ckpt_path "$out/codec/checkpoints/last.ckpt" \
        --data.init_args.validation_split held_out
    step "$1 tokens" run.py predict --config $OPEN/tokenise.yaml ${overlays[@]+"${overlays[@]}"} "${THREADS[@]}" --stage.folder "$out/tokens" \
        --ckpt_path "$out/codec/checkpoints/last.ckpt"
}

lm() { # NAME SEED CODEC [OVERLAY]: trains, and speaks the held-out sentences
    local out=runs/formats/$1_$2 codec=runs/$3 overlay=()
    if [[ -n ${4:-} ]]; then overlay=(--config "$OPEN/$4"); fi
    step "$1 $2 lm" run.py fit --config $OPEN/lm.yaml "${overlay[@]}" "${THREADS[@]}" --stage.folder "$out/lm" --seed_everything "$2" \
        --data.init_args.seed "$2" --stage.inputs "[$codec/tokens/train, $codec/tokens/held_out]" \
        --data.init_args.folder "$codec/tokens" \
        --trainer.max_steps "$LM_STEPS" --trainer.callbacks "[callbacks.throughput.Throughput]" \
        --trainer.val_check_interval 500
    step "$1 $2 evaluation" run.py test --config $OPEN/evaluate.yaml --config $OPEN/choose.yaml "${overlay[@]}" "${THREADS[@]}" \
        --stage.folder "$out/report" --run_layout.folder "$out" --sweep.init_args.folder "$out" \
        --stage.inputs "[$out/lm/checkpoints/last.ckpt, $codec/codec/checkpoints/last.ckpt, cache/shards/open_voice/held_out]" \
        --ckpt_path "$out/lm/checkpoints/last.ckpt" \
        --sweep.codec.init_args.path "$codec/codec/checkpoints/last.ckpt" --sweep.more_temperatures "[0.3]" --sweep.sampling.force_words false
}

for part in "$@"; do
    case $part in
        corpus) step corpus run.py prepare --config $OPEN/prepare.yaml --data.init_args.sources.init_args.num_sentences $SENTENCES ;;
        codec_25) codec open_voice codec_plain.yaml ;;
        codec_50) codec open_voice_50 codec_50hz.yaml codec_plain.yaml ;;
        codec_phonemes) codec open_voice_phonemes ;;
        words_*) lm words "${part#words_}" open_voice ;;
        plain_*) lm plain "${part#plain_}" open_voice text_then_codes.yaml ;;
        letters_*) lm letters "${part#letters_}" open_voice letters.yaml ;;
        words50_*) lm words50 "${part#words50_}" open_voice_50 ;;
        phonemes_*) lm phonemes "${part#phonemes_}" open_voice_phonemes ;;
        *)
            echo "error: Expected corpus, codec_{25,50,phonemes} or {words,plain,letters,words50,phonemes}_SEED, but got $part." >&2
            exit 2
            ;;
    esac
done
