#!/usr/bin/env bash
# From nothing to a voice that reads any English sentence: spoken sentences -> codec -> tokens -> language model -> speech.
#
#   HOURS=3 scripts/open_voice.sh
#
# HOURS on two cores are 0.5, 1.5, 3 (default) or 12. Every line that starts with `step` is a command that you can run
# yourself. A finished step is skipped, an unfinished one resumes: you can stop with Ctrl-C, or kill it, and start again.
# One folder has the voice of one HOURS; SUITE_ROOT=FOLDER trains another one there.
set -eEuo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
enter_root

# HOURS: sentences, updates of the codec and of the language model; minutes of each step; GB on disk. The minutes are
# computed from the speed of the steps on two cores of an AMD EPYC with AVX-512 bf16; they do not end a step.
#                      codec      LM | prepare codec codec_table tokens   LM evaluation | GB
SETTINGS="
    0.5    12000        5000    1600         5     8           2      2     6          5    2
    1.5    24000       12000    7000        10    20           2      3    26          6    3
    3      44000       24000   14000        18    40           2      5    52          6    6
    12    120000       60000   90000        49   100           2     14   330          6   16
"
HOURS=${HOURS:-3}
begun=$ROOT/runs/open_voice/.hours # HOURS SENTENCES CODEC_STEPS LM_STEPS
begun_hours=$HOURS begun_sizes=
if [[ -f $begun ]]; then
    read -r begun_hours begun_sizes <"$begun" || true
    case "$begun_hours $begun_sizes" in # HOURS alone: the sizes until 27 November 2026
    "0.5 ") begun_sizes="6000 2800 2400" ;;
    "1.5 ") begun_sizes="22000 11000 10500" ;;
    "3 ") begun_sizes="44000 18000 20000" ;;
    "12 ") begun_sizes="120000 36000 100000" ;;
    esac
fi
SENTENCES=
while read -r hours sentences codec_steps lm_steps minutes; do
    if [[ -z $hours || $hours != "$HOURS" ]]; then continue; fi
    SENTENCES=$sentences CODEC_STEPS=$codec_steps LM_STEPS=$lm_steps
    read -r PREPARE CODEC CODEC_TABLE TOKENS LM EVALUATION DISK <<<"$minutes"
done <<<"$SETTINGS"
if [[ -z $SENTENCES ]]; then
    echo "error: Expected \`HOURS\` to be 0.5, 1.5, 3 or 12, but got $HOURS." >&2
    exit 2
fi
if [[ $begun_hours != "$HOURS" ]]; then
    echo "error: Expected HOURS=$begun_hours, as $ROOT/runs/open_voice was begun, but got HOURS=$HOURS. Another voice" \
        "beside it: SUITE_ROOT=FOLDER make voice HOURS=$HOURS" >&2
    exit 2
fi
if [[ -n $begun_sizes ]]; then
    table=("$SENTENCES" "$CODEC_STEPS" "$LM_STEPS")
    read -r SENTENCES CODEC_STEPS LM_STEPS <<<"$begun_sizes"
    PREPARE=$((PREPARE * SENTENCES / table[0])) CODEC=$((CODEC * CODEC_STEPS / table[1])) LM=$((LM * LM_STEPS / table[2]))
fi

# The programs that make the recordings; no later step needs them.
missing=()
command -v flite >/dev/null || missing+=(flite)
# apt-get can also fetch wordnet-base without root, when the sentences are read.
shopt -s nullglob
wordnet=("$ROOT"/cache/wordnet/wordnet-base_*.deb /usr/share/wordnet/data.noun)
if [[ ! -f ${wordnet[0]:-} ]] && ! command -v apt-get >/dev/null; then missing+=(wordnet-base); fi
if [[ ${#missing[@]} -gt 0 && ! -f $ROOT/cache/shards/open_voice/prepared.json ]]; then
    echo "error: This voice needs ${missing[*]}. Install: sudo apt-get install ${missing[*]}" >&2
    exit 1
fi

total=$((PREPARE + CODEC + CODEC_TABLE + TOKENS + LM + EVALUATION))
cat <<END
A voice from $SENTENCES sentences that flite speaks: about $((total / 60)) h $((total % 60)) min on two cores, $DISK GB on disk, in $ROOT.
END
plan prepare "$PREPARE"
plan codec "$CODEC" "$CODEC_STEPS updates"
plan codec_table "$CODEC_TABLE"
plan tokens "$TOKENS"
plan lm "$LM" "$LM_STEPS updates"
plan evaluation "$EVALUATION"
cat <<END
Progress bars show the time left of a step. You can stop at any time: the same command continues.
Held-out sentences while the language model is trained, beside the teacher and the codec:
    $ROOT/runs/open_voice/lm/report/training_speech.html
END

# Speaks the sentences with flite, with a process for each core, and notes when each word ends.
step prepare run.py prepare --config configs/voice/open/prepare.yaml \
    --data.init_args.sources.init_args.num_sentences "$SENTENCES"
mkdir -p "$(dirname "$begun")"
echo "$HOURS $SENTENCES $CODEC_STEPS $LM_STEPS" >"$begun.new"
mv "$begun.new" "$begun"
# A codec that was begun by a version without the classifier of phonemes stays without.
plain=()
begun_codec=$ROOT/runs/open_voice/codec/stage_fit.json
if [[ -f $begun_codec ]] && ! grep -Eq '"phoneme_classifier": *\{' "$begun_codec"; then
    plain=(--config configs/voice/open/codec_plain.yaml)
fi
# Trains the codec to encode the voice as 25 codes per second and to decode it.
step codec run.py fit --config configs/voice/open/codec.yaml ${plain[@]+"${plain[@]}"} --trainer.max_steps "$CODEC_STEPS"
# Evaluates the codec: word errors, STOI and PESQ on test sentences, beside the teacher itself.
step codec_table run.py test --config configs/voice/open/evaluate_codec.yaml ${plain[@]+"${plain[@]}"}
# Encodes the spoken sentences as token shards.
step tokens run.py predict --config configs/voice/open/tokenise.yaml ${plain[@]+"${plain[@]}"}
# On two cores, two processes train the language model faster than one (studies/lm_speed). A begun one goes on as it was.
two=()
begun_lm=$ROOT/runs/open_voice/lm/stage_fit.json
if [[ -f $begun_lm ]]; then
    if grep -Eq '"devices": *2[^0-9]' "$begun_lm"; then two=(--config configs/voice/open/two_processes.yaml); fi
elif [[ $(nproc 2>/dev/null || echo 1) == 2 ]] && ! command -v nvidia-smi >/dev/null && ! command -v rocm-smi >/dev/null; then
    two=(--config configs/voice/open/two_processes.yaml)
fi
# Trains a Llama to write words and their codes.
step lm run.py fit --config configs/voice/open/lm.yaml ${two[@]+"${two[@]}"} --trainer.max_steps "$LM_STEPS"
# Samples each test sentence eight times; selectors choose, Whisper judges.
step evaluation run.py test --config configs/voice/open/evaluate.yaml
# Speaks a sentence that is not in the data.
step say run.py say --config configs/voice/open/say.yaml "Nobody has ever said this sentence before."

cat <<END

It took $((SECONDS / 60)) min. The report, with figures and audio:
    $ROOT/runs/open_voice/report/index.html
Held-out sentences during the training:
    $ROOT/runs/open_voice/lm/report/training_speech.html
Your own text:
    $PYTHON run.py say --config configs/voice/open/say.yaml "Any sentence."
END
