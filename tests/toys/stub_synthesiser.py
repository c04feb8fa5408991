"""Stands in for piper_program.py: a phoneme is a letter of 100 samples, "of the" one word, "x" two, "refused" refused.
The voice "none" is missing."""

import json
import sys


def answer(text: str, words: list[str]) -> dict:
    if "refused" in words:
        return {"error": "a phoneme that the voice lacks", "num_samples": 0}
    symbols = ["^", *text.replace("of the", "ofthe").replace("x", "eks eks"), *(" " if text.endswith(",") else ""), "$"]
    alone = [list("eks eks" if word == "x" else word) for word in words]
    about = {"sample_rate": 22_050, "num_samples": 100 * len(symbols)}
    return {**about, "phonemes": [[symbol, 100] for symbol in symbols], "alone": alone}


def main() -> None:
    is_missing = sys.argv[1] == "none"
    print(json.dumps({"missing": "no voice"} if is_missing else {"ready": sys.argv[1]}), flush=True)
    for line in () if is_missing else sys.stdin:
        about = answer(**json.loads(line))
        sys.stdout.buffer.write(json.dumps(about).encode() + b"\n" + b"\0\1" * about["num_samples"])
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
