"""Converts conversations to shards, for TextReplay.

    python -m datamodules.shards.text_shards CHAT.jsonl FOLDER

reads one conversation per line, {"messages": [{"role": "user", "content": "..."}, ...]}, and writes FOLDER/train and
FOLDER/test (a tenth, by hash). Unusable lines are counted and omitted.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datamodules.shards.shards import ShardWriter, held_out


def messages_in(line: str) -> list[dict[str, Any]] | str:
    """Return the messages of a line, which end with the assistant's, or why it is unusable."""
    try:
        conversation = json.loads(line)
    except (ValueError, RecursionError):
        return "no JSON"
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        return "no list of two messages or more"
    texts = [message.get(name) if isinstance(message, dict) else None
             for message in messages for name in ("role", "content")]  # fmt: skip
    if not all(isinstance(text, str) for text in texts):
        return "a role or content is no string"
    if re.search("[\ud800-\udfff]", "".join(texts)):
        return "text that is no Unicode"
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        return "no conversation that ends with the assistant"
    return messages


def write_text_shards(lines: Iterable[str], folder: Path, samples_per_shard: int = 10000) -> dict[str, int]:
    """Write both splits. Returns the number of samples of each. A sample's length is its number of messages. Prints why
    lines were omitted."""
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder / split, "text", {}, samples_per_shard))
            for split in ("train", "test")
        }
        for number, line in enumerate(lines):
            key = f"line{number}"
            writer = writers["test" if held_out(key) else "train"]
            messages = messages_in(line)
            if isinstance(messages, str):
                writer.skip(key, messages)
                reasons[messages] += 1
                continue
            text = "".join(message["content"] for message in messages)
            writer.write(key, {"json": json.dumps({"messages": messages}).encode()}, len(messages), text)
    print(
        f"skipped {reasons.total()} lines",
        *(f"  {number} x {reason}" for reason, number in reasons.most_common()),
        sep="\n",
    )
    return {split: writer.num_samples for split, writer in writers.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m datamodules.shards.text_shards", description=__doc__)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    if not given.conversations.is_file():
        parser.exit(2, f"error: Expected a file of conversations at `{given.conversations}`, but there is none.\n")
    with given.conversations.open(encoding="utf-8", errors="surrogateescape") as lines:
        try:
            print(write_text_shards(lines, given.folder))
        except ValueError as error:  # FOLDER has other shards
            parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
