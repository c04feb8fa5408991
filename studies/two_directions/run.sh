#!/usr/bin/env bash
# Runs for studies/two_directions/README.md: one Llama for TTS and ASR, and one for voice cloning from a spoken prompt.
# Needs `make demo`, and the codec of five voices (two hours of one core, studies/codec_quality/run.sh trains it
# too); the rest takes about an hour of one core. Finished stages are skipped.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
CONFIGS=configs/lm/two_directions

# Both directions: TTS and ASR of the demo's digit strings.
"$PYTHON" run.py fit --config $CONFIGS/lm.yaml --num_threads 1
"$PYTHON" run.py test --config $CONFIGS/speak.yaml
"$PYTHON" run.py test --config $CONFIGS/listen.yaml

# Voices: digits in five languages, whose text does not reveal the speaker.
if [[ ! -e runs/five_voices/codec/checkpoints/last.ckpt ]]; then
    "$PYTHON" run.py fit --config configs/codec/five_voices.yaml --num_threads 1
fi
"$PYTHON" run.py predict --config $CONFIGS/voices_tokenise.yaml
"$PYTHON" run.py fit --config $CONFIGS/voices_lm.yaml --num_threads 1
"$PYTHON" run.py test --config $CONFIGS/voices.yaml

"$PYTHON" -m studies.two_directions.collect
