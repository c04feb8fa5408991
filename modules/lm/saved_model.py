"""A trained language model as one of several in a sweep: loaded when needed, and freed afterwards."""

from functools import cached_property
from pathlib import Path

import torch

from modules.api import PromptFormat, Sampler, SamplerEngine, SamplingSettings
from modules.lm.checkpoints import read_model, restored_network, stored_prompt_format
from modules.lm.network import SpeechLanguageModel, model_hash
from modules.lm.pretrained import PretrainedNetwork, load_pretrained
from modules.lm.sampling.sampler import sampler_of
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer


class SavedModel:
    """A modules.search.protocol.SweptModel from a checkpoint of LMModule, or from a Hugging Face model that generates
    speech.

    Its hash is that of an LMModule with the same weights, so that their candidates are shared.

    Args:
        name: Name in tables.
        source: A checkpoint of LMModule; with a `prompt_format`, a folder or a repository of Hugging Face.
        prompt_format: Prompt format of a Hugging Face model. A checkpoint contains its own.
        revision: Revision of the repository.

    Raises (when its prompt format is requested):
        OSError: There is nothing at `source`.
        ValueError: It is not a checkpoint of LMModule, or its vocabulary differs from that of the prompt format.
    """

    def __init__(
        self, name: str, source: str, prompt_format: PromptFormat | None = None, revision: str | None = None
    ) -> None:
        self.name = name
        self.network = PretrainedNetwork(source, revision)
        self._given_format = prompt_format
        self._model: SpeechLanguageModel | None = None

    @cached_property
    def prompt_format(self) -> PromptFormat:
        if self._given_format is None:
            return stored_prompt_format(read_model(Path(self.network.source)))
        space = self._given_format.token_space
        tokenizer = self._tokenizer
        if (found := (tokenizer.vocab_size, tokenizer.num_codes)) != (space.text_vocab_size, space.codebook_size):
            raise ValueError(
                f"Expected `{self.network.source}` to know the prompt format's {space.text_vocab_size} text tokens and "
                f"{space.codebook_size} codes, but got {found[0]} and {found[1]}."
            )
        return self._given_format

    @cached_property
    def _tokenizer(self) -> HuggingFaceTokenizer:
        """The tokenizer of a Hugging Face model: the format's own, where that is of the same source."""
        known, source = getattr(self._given_format, "tokenizer", None), (self.network.source, self.network.revision)
        if isinstance(known, HuggingFaceTokenizer) and (known.source, known.revision) == source:
            return known
        return HuggingFaceTokenizer(*source)

    @property
    def codec_fingerprint(self) -> str:
        """Empty for a model of Hugging Face, which does not record it."""
        if self._given_format is not None:
            return ""
        return read_model(Path(self.network.source)).get("codec_fingerprint", "")

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights."""
        if self._given_format is None:
            checkpoint = read_model(Path(self.network.source))
            network = restored_network(checkpoint, merge=False)
        else:
            network = load_pretrained(self.network, self.prompt_format.token_space, self._tokenizer)
        self._model = SpeechLanguageModel(network).to(device, dtype).eval()

    @property
    def loaded(self) -> SpeechLanguageModel:
        assert self._model is not None, "`load` comes first"
        return self._model

    @property
    def model_hash(self) -> str:
        """Hash of an LMModule with these weights; known once they are loaded."""
        return model_hash(self.loaded, self.prompt_format.token_space)

    def free(self) -> None:
        """Free the weights."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # an engine's processes may need the memory

    def sampler(self, settings: SamplingSettings, engine: SamplerEngine | None = None) -> Sampler:
        """Return a sampler of the loaded weights, or of `engine` with these weights."""
        return sampler_of(self.loaded, self.prompt_format, settings, engine)
