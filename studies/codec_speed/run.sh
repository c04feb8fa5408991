#!/usr/bin/env bash
# CPU benchmarks for studies/codec_speed/README.md: four, about twenty minutes of two cores, collected in
# studies/codec_speed/results.json. On a GPU: benchmarks/gpu/.
set -eEuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
OUT=runs/codec_speed
mkdir -p $OUT
measure() { # BENCHMARK OPTIONS
    local name=$1
    shift
    echo "$name $*"
    "$PYTHON" -m benchmarks."$name" "$@" | sed -n '/^{/,$p' >"$OUT/$name.json" # skips the comparison printed first
}
measure codec_inference --num_threads 2
measure corpus_tokenising --num_threads 1 --num_files 16 --longest_seconds 5 --rounds 2
measure codec_training_step --num_threads 1 --rounds 7
measure acoustic_encoder --num_threads 1
"$PYTHON" - $OUT studies/codec_speed/results.json <<'END'
import json, pathlib, sys
folder, target = map(pathlib.Path, sys.argv[1:])
found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
target.write_text(json.dumps(found, indent=1) + "\n")
END
"$PYTHON" -m studies.codec_speed.collect
echo "written to studies/codec_speed/results.json"
