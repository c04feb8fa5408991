"""A table of texts as prompts of `predict`."""

from pathlib import Path

import pytest

from datamodules.prompt_sets.text_and_shard_prompts import PromptDataModule
from tests.toys.search_toys import ToyFormat


def test_a_table_of_texts_is_spoken_in_batches(tmp_path: Path) -> None:
    """Guards against texts that are lost at the end of a batch, in another's language or under another key."""
    path = tmp_path / "texts.csv"
    path.write_text('\ufeffkey,class,language,text\na,x,en,"One, two"\nb,y,zh,一二\nc,x,en,three\n', encoding="utf-8")
    batches = list(PromptDataModule(ToyFormat(), text_file=path, batch_size=2).predict_dataloader())
    assert [len(batch.prompts) for batch in batches] == [2, 1]
    told = [(one.key, one.language, one.text) for batch in batches for one in batch.prompts]
    assert told == [("a", "en", "One, two"), ("b", "zh", "一二"), ("c", "en", "three")]
    (batch,) = PromptDataModule(ToyFormat(), text_file=path, speaker="bob", language="fr").predict_dataloader()
    assert {(one.speaker, one.language) for one in batch.prompts} == {("bob", "fr")}
    with pytest.raises(ValueError, match="Expected `text` or `text_file`, but got both"):
        PromptDataModule(ToyFormat(), text_file=path, text="one").predict_dataloader()
    head = "key,language,text\n"
    complaints = {
        "key,text\na,b\n": "columns key, language and text",
        head: "rows",
        f"{head}a,en,1\na,en,2\n": r"\['a'\]",
    }
    complaints |= {f"{head}b,en,\n": r"\['b'\]", f"{head}b,en\n": r"\['b'\]"}
    for content, complaint in complaints.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=f"Expected `text_file`.*{complaint}"):
            PromptDataModule(ToyFormat(), text_file=path).predict_dataloader()
    with pytest.raises(FileNotFoundError):
        PromptDataModule(ToyFormat(), text_file=tmp_path / "none.csv").predict_dataloader()
