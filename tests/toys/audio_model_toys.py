"""Small random audio models in folders, as written by transformers."""

import json
from pathlib import Path

import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForXVector,
)

SIZE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 8, 8), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4} | {
    letter: 5 + i for i, letter in enumerate("ABCDEFG")
}


def save_audio_model(folder: Path, kind: str, masked: bool = True, num_labels: int = 1, seed: int = 0) -> str:
    """`kind`: ctc, xvector or classifier. `masked`: layer norm and an attention mask, as wav2vec 2.0 large."""
    torch.manual_seed(seed)
    size = SIZE | {"feat_extract_norm": "layer" if masked else "group", "vocab_size": len(VOCABULARY)}
    if kind == "ctc":
        network = Wav2Vec2ForCTC(Wav2Vec2Config(**size, pad_token_id=0))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>").save_pretrained(folder)
    elif kind == "xvector":
        network = WavLMForXVector(WavLMConfig(**size, tdnn_dim=(24, 24), tdnn_kernel=(3, 3), tdnn_dilation=(1, 3),
                                              xvector_output_dim=20))  # fmt: skip
    else:
        labels = {place: f"mood {place}" for place in range(num_labels)}
        network = Wav2Vec2ForSequenceClassification(
            Wav2Vec2Config(**size, num_labels=num_labels, id2label=labels, classifier_proj_size=16)
        )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)  # fresh weights hardly depend on the audio
    network.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=masked, do_normalize=True).save_pretrained(folder)
    return str(folder)
