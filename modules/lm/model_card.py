"""README.md of an exported language model: its prompt as text, and an example that only needs transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from modules.api import PromptFormat, WritesWords
from modules.lm.licences import hub_metadata, licence_sentence
from modules.lm.text.phoneme_tokenizer import PhonemeTokenizer
from modules.lm.text.prompt_format import LlasaChat, TextToSpeech
from modules.tokens import TokenSpace

SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 1.0}  # from the released Llasa models' cards
WORD_BLOCKS_SAMPLING = {"temperature": 0.1, "top_k": 0}  # of models that write words (studies/voice)
DRAWING = ("temperature", "top_k", "top_p", "repetition_penalty")  # what a sampler takes of such settings
MAX_LENGTH = 2048  # tokens of prompt and speech: the length in Llasa's recipes, and the limit in their cards

CARD = """\
---
{metadata}library_name: transformers
pipeline_tag: text-to-speech
---

# Speech codes from text

A causal language model that reads a text and writes the codes of a speech codec: {num_codes} codes, the tokens
`<|s_0|>` to `<|s_{last_code}|>`. A codec turns the codes into sound.{codec}

## Prompt

`{{text}}` stands for what is to be spoken; everything else is written exactly so, line ends included:

```text
{prompt}
```
{chat}
Speech ends with `<|SPEECH_GENERATION_END|>`. `generation_config.json` stops there and samples at temperature
{temperature}, top-k {top_k}, at most {max_length} tokens; `model.generate(..., do_sample=False)` is greedy.
{voice}
## Text to codes

In this folder:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
prompt = {template!r}.replace("{{text}}", {written!r})
tokens = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
end, first = tokenizer.convert_tokens_to_ids(["<|SPEECH_GENERATION_END|>", "<|s_0|>"])
allowed = torch.tensor([{words}end, *range(first, len(tokenizer))])
options = {{"attention_mask": torch.ones_like(tokens), "prefix_allowed_tokens_fn": lambda batch, sequence: allowed}}
answer = model.generate(tokens, **options)[0, tokens.shape[1]:]
codes = answer[answer >= first] - first
```

## Codes to sound

Where the codec is X-codec2, transformers 5.13 and later have a class for it. `codec` is its folder; for NeuCodec, the
class is `NeuCodecModel`. For other codecs transformers has no class: decode with the program that trained this model.

```python
from transformers import Xcodec2Model

codec = Xcodec2Model.from_pretrained("codec")
audio = codec.decode(audio_codes=codes[None, None]).audio_values[0, 0]  # samples at codec.config.sampling_rate Hz
```

## Text to sound

`voice.json` says how this model is prompted, and which codec its codes are of. With the suite that trained it, text
becomes sound in one step:

```sh
python run.py say {text!r} --model FOLDER{option} --out speech.wav
```

## Licence

{licence}
"""

NO_LICENCE = """\
None is given here: whoever publishes this folder chooses one, and adds it above as `license:`. The choice is limited by
the licence of the model that training started from, if it did (Llama's has conditions of its own, the released Llasa
models allow no commercial use), and by what the speakers and the licences of the recordings allow."""

NO_COMMERCE = """\
{sentence}
`license:` above says so; whoever publishes this folder may add conditions, but not take this one away. The licence of
the model that training started from, if it did, and what the speakers allow hold as well."""

CHAT = """
The tokenizer's chat template gives the same (its date is the one that the model was trained with, not today's):
`tokenizer.apply_chat_template([{{"role": "user", "content": {content!r}}}], add_generation_prompt=True)`,
followed by `<|SPEECH_GENERATION_START|>`.
"""


VOICE = """\
To speak in the voice of a recording, write its transcript and a space before the text, and append the recording's codes
to the prompt; what is generated goes on from there.
"""

WORDS = """\
The model writes each word of the text, with a space after it, before the codes of that word; the codes alone are sound.
"""

SPELLING = """
`{{text}}` is a phonetic spelling, as is `{written}` for "{text}": one character for each phoneme of the words in the
CMU dictionary, small letters for other words. `PhonemeTokenizer.spelling` (modules/lm/text) makes it, and so does
`python run.py say`.
"""


def model_card(
    prompt_format: TextToSpeech,
    max_length: int,
    codec_fingerprint: str = "",
    codec: str = "",
    training: Mapping[str, Any] | None = None,
    model_licenses: Sequence[str] = (),
) -> str:
    """Return the model card for a prompt format. The example's text only has characters that its tokenizer supports.

    `codec`: path or hub name of the codec; "" if unknown. `training`: facts of the training data as plain data, whose
    `licenses` and `license_hours`, with `model_licenses` of the model that it started from, decide about the card's
    licence.
    """
    licenses, hours = ((training or {}).get(name) or {} for name in ("licenses", "license_hours"))
    sentence = licence_sentence(list(licenses), dict(hours), model_licenses)
    space: TokenSpace = prompt_format.token_space
    template = prompt_format.prompt_template
    known = getattr(prompt_format.tokenizer, "characters", None)
    texts = ["Good morning.", "good morning", *([known] if known else [])]
    text = next(one for one in texts if known is None or set(one) <= set(known))
    chat, written, writes_words = "", text, isinstance(prompt_format, WritesWords)
    if isinstance(prompt_format.tokenizer, PhonemeTokenizer):
        written = prompt_format.tokenizer.spelling(text)
        chat = SPELLING.format(written=written, text=text)
    if isinstance(prompt_format, LlasaChat):
        chat = CHAT.format(content=prompt_format.request_template)
    if known is not None:
        chat += f"\nThe model has learned texts of these characters only: {known!r}.\n"
    if prompt_format.prefix:
        chat += f"\nWhere speaker and language are known, the text begins with {prompt_format.prefix!r}.\n"
    if prompt_format.answer_prefix:
        where = "directly before `<|SPEECH_GENERATION_START|>`"
        chat += f"\nWhere speaker and language are known, {prompt_format.answer_prefix!r} stands {where}.\n"
    return CARD.format(
        metadata=hub_metadata([*licenses, *model_licenses]),
        licence=NO_COMMERCE.format(sentence=sentence) if sentence else NO_LICENCE,
        num_codes=space.codebook_size,
        last_code=space.codebook_size - 1,
        codec=_about_codec(codec_fingerprint, codec),
        option="" if codec else " --codec CODEC",
        prompt=template,
        template=template,
        chat=chat,
        text=text,
        written=written,
        words=f"*range({space.text_vocab_size}), " if writes_words else "",
        voice=WORDS if writes_words else VOICE,
        max_length=max_length,
        temperature=sampling_in_card(prompt_format)["temperature"],
        top_k=sampling_in_card(prompt_format)["top_k"],
    )


def sampling_in_card(prompt_format: PromptFormat) -> dict[str, Any]:
    """Sampling settings of `generate`."""
    return SAMPLING | (WORD_BLOCKS_SAMPLING if isinstance(prompt_format, WritesWords) else {})


def _about_codec(fingerprint: str, codec: str) -> str:
    named = f"\nThat codec: `{codec}`." if codec else ""
    return named + (f"\nThat codec's fingerprint: `{fingerprint}`." if fingerprint else "")
