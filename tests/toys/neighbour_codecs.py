"""Codecs of a known receptive field, to compare streams with the offline decode."""

import math

import torch
from torch import Tensor

from tests.toys.facts import CodecToy

HOP = 4


class NeighbourCodec(CodecToy):
    """Integer arithmetic, so that results can be equal: a code is the sum of the samples of `reach` frames on either
    side, decoded audio the sum of the codes of `back` frames before and `ahead` after, weighted by their distance."""

    sample_rate, frame_rate, codebook_size, fingerprint = 40, 10.0, 1000, "neighbours"

    def __init__(self, back: int = 6, ahead: int = 2, reach: int = 3, extra_code: bool = False) -> None:
        self.back, self.ahead, self.reach, self.extra_code = back, ahead, reach, extra_code
        self.longest_encode = self.longest_decode = 0

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        self.longest_encode = max(self.longest_encode, audio_BT.shape[1])
        num_codes = (audio_BT.shape[1] // HOP + 1) if self.extra_code else -(-audio_BT.shape[1] // HOP)
        padded = torch.nn.functional.pad(audio_BT, (0, num_codes * HOP - audio_BT.shape[1]))
        frames_BS = padded.unflatten(1, (-1, HOP)).sum(-1)
        padded_BS = torch.nn.functional.pad(frames_BS, (self.reach, self.reach))
        return padded_BS.unfold(1, 2 * self.reach + 1, 1).sum(-1).long() % 1000, torch.tensor([num_codes])

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        self.longest_decode = max(self.longest_decode, codes_BS.shape[1])
        padded_BS = torch.nn.functional.pad(codes_BS, (self.back, self.ahead))
        weights = torch.arange(1, self.back + self.ahead + 2) ** 2
        frames_BS = (padded_BS.unfold(1, len(weights), 1) * weights).sum(-1)
        audio_BT = (frames_BS[..., None] + torch.arange(HOP)).flatten(1)
        return audio_BT[:, start_frame * HOP :].float()

    def decode_flops(self, num_codes: int) -> float:
        return 0.0


class ToneCodec(CodecToy):
    """A tone, highest at every border of frames; its level is the mean of the codes from 6 frames before to `ahead`
    after, and changes steadily from frame to frame."""

    sample_rate, frame_rate, codebook_size, fingerprint = 8000, 50.0, 1000, "tone"
    back, ahead, period = 6, 8, 80

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        hop = 160
        padded_BS = torch.nn.functional.pad(codes_BS / 1000, (self.back, self.ahead))
        level_BS = padded_BS.unfold(1, self.back + 1 + self.ahead, 1).mean(-1)
        next_BS = torch.cat([level_BS[:, 1:], level_BS[:, -1:]], dim=1)
        level_BST = torch.lerp(level_BS[..., None], next_BS[..., None], torch.arange(hop) / hop)
        tone_T = torch.cos(2 * math.pi / self.period * torch.arange(hop))
        return (level_BST * tone_T).flatten(1)[:, start_frame * hop :]

    def decode_flops(self, num_codes: int) -> float:
        return 0.0
