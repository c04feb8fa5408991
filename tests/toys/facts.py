"""Facts of toys from their attributes, which tests may set one by one."""

from modules.api import CodecFacts, VerifierFacts


class CodecToy:
    """Base of codecs for tests: one rate in and out, no look-back; the hash of the decoder is that of the encoder."""

    sample_rate: int
    frame_rate: float
    codebook_size: int
    fingerprint: str

    @property
    def facts(self) -> CodecFacts:
        return CodecFacts(
            sample_rate=self.sample_rate,
            input_sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
            codebook_size=self.codebook_size,
            look_back_frames=0,
        )

    @property
    def decoder_fingerprint(self) -> str:
        return self.fingerprint


class VerifierToy:
    """Base of verifiers for tests."""

    name: str
    model_hash: str
    families: frozenset[str]
    settings: dict[str, object] = {}  # noqa: RUF012 - read only
    worst_score, best_score, reaches_ends = 0.0, 1.0, True
    needs_text = needs_reference = judges_partial = False

    @property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=self.model_hash,
            settings=self.settings,
            families=self.families,
            worst_score=self.worst_score,
            best_score=self.best_score,
            reaches_ends=self.reaches_ends,
            needs_text=self.needs_text,
            needs_reference=self.needs_reference,
            judges_partial=self.judges_partial,
        )

    def flops(self, seconds: float) -> float:
        return 0.0
