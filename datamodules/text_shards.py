"""Conversations as shards, for TextReplay.

    python -m datamodules.text_shards CHAT.jsonl FOLDER

reads one conversation a line, {"messages": [{"role": "user", "content": "..."}, ...]}, and writes FOLDER/train and
FOLDER/test (a tenth, by hash). A conversation that does not end with the assistant is counted and left out.
"""

import argparse
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datamodules.shards import ShardWriter, held_out


def usable(conversation: Any) -> bool:
    """Whether a line holds texts by turns, the last of them the assistant's."""
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        return False
    whole = all(
        isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))
        for message in messages
    )
    return whole and messages[-1]["role"] == "assistant" and bool(messages[-1]["content"].strip())


def write_text_shards(lines: Iterable[str], folder: Path, samples_per_shard: int = 10000) -> dict[str, int]:
    """Write both splits; how many samples each holds. A sample's length is its number of messages."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder / split, "text", {}, samples_per_shard))
            for split in ("train", "test")
        }
        for number, line in enumerate(lines):
            key = f"line{number}"
            writer = writers["test" if held_out(key) else "train"]
            try:
                conversation = json.loads(line)
            except ValueError:
                conversation = None
            if not usable(conversation):
                writer.skip(key, "no conversation that ends with the assistant")
                continue
            messages = conversation["messages"]
            text = "".join(message["content"] for message in messages)
            writer.write(key, {"json": json.dumps({"messages": messages}).encode()}, len(messages), text)
    return {split: writer.num_samples for split, writer in writers.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m datamodules.text_shards", description=__doc__)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    if not given.conversations.is_file():
        parser.exit(2, f"error: Expected a file of conversations at `{given.conversations}`, but there is none.\n")
    with given.conversations.open() as lines:
        print(write_text_shards(lines, given.folder))


if __name__ == "__main__":
    main()
