"""Names of modules and classes that have moved, with today's: yamls, checkpoints and stage markers hold the old ones.

CHANGELOG.md shows the same table.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODULES = {
    "callbacks.codec_card": "modules.evaluation.card",
    "callbacks.codec_columns": "modules.evaluation.table",
    "callbacks.codec_estimates": "modules.evaluation.code_usage",
    "callbacks.codec_page": "modules.report.codec_page",
    "callbacks.codec_report": "callbacks.codec_evaluation",
    "callbacks.codec_results": "modules.evaluation.results",
    "callbacks.codec_systems": "modules.evaluation.systems",
    "callbacks.codec_table": "modules.evaluation.judge",
    "callbacks.figures": "modules.report.figures",
    "callbacks.quoted_rows": "modules.report.quoted_rows",
    "callbacks.report_page": "modules.report.sweep_page",
    "callbacks.report_tables": "modules.report.sweep_tables",
    "callbacks.stage": "modules.stages",
    "callbacks.stage_config": "modules.stage_config",
    "datamodules.benchmark_prompts": "datamodules.prompt_sets.published_prompts",
    "datamodules.benchmarks.benchmark": "datamodules.prompt_sets.published_set",
    "datamodules.benchmarks.esd": "datamodules.prompt_sets.esd",
    "datamodules.benchmarks.librispeech": "datamodules.prompt_sets.librispeech",
    "datamodules.benchmarks.seed_tts_eval": "datamodules.prompt_sets.seed_tts_eval",
    "datamodules.order": "datamodules.shards.order",
    "datamodules.preparation": "datamodules.shards.preparation",
    "datamodules.prompts": "datamodules.prompt_sets.text_and_shard_prompts",
    "datamodules.shards": "datamodules.shards.shards",
    "datamodules.sources.numerals": "datamodules.sources.digits",
    "datamodules.stored_arrays": "datamodules.shards.stored_arrays",
    "datamodules.tar_samples": "datamodules.shards.tar_samples",
    "datamodules.text_shards": "datamodules.shards.text_shards",
    "datamodules.voice_prompts": "datamodules.prompt_sets.voice_prompts",
    "modules.codec.acoustic": "modules.codec.parts.acoustic_encoder",
    "modules.codec.activations": "modules.codec.parts.snake",
    "modules.codec.checkpoints": "modules.codec.formats.checkpoints",
    "modules.codec.compressed": "modules.evaluation.bit_streams",
    "modules.codec.convnext": "modules.codec.parts.convnext",
    "modules.codec.decoder": "modules.codec.parts.vocos_decoder",
    "modules.codec.discriminators": "modules.codec.training.discriminators",
    "modules.codec.encoder": "modules.codec.parts.spectral_encoder",
    "modules.codec.external": "modules.evaluation.opus_and_codec2",
    "modules.codec.filter_bank": "modules.codec.parts.filter_bank",
    "modules.codec.fused_snake": "modules.codec.parts.snake_cuda",
    "modules.codec.fusion": "modules.codec.parts.semantic_fusion",
    "modules.codec.losses": "modules.codec.training.losses",
    "modules.codec.naming": "modules.codec.formats.tensor_names",
    "modules.codec.parallel": "modules.codec.training.sharding",
    "modules.codec.perceptual": "modules.codec.training.perceptual_loss",
    "modules.codec.quantizer": "modules.codec.parts.quantizers",
    "modules.codec.relative_attention": "modules.codec.parts.relative_attention",
    "modules.codec.released": "modules.codec.formats.released",
    "modules.codec.semantic": "modules.codec.parts.semantic_encoder",
    "modules.codec.snake_kernel": "modules.codec.parts.snake_triton",
    "modules.codec.spectral": "modules.codec.parts.spectral",
    "modules.codec.training_checks": "modules.codec_module",
    "modules.codec.transformer": "modules.codec.parts.transformer_decoder",
    "modules.codec.transformers_codec": "modules.evaluation.transformers_codec",
    "modules.codec.transformers_folder": "modules.codec.formats.transformers_folder",
    "modules.codec.updates": "modules.codec.training.guarded_updates",
    "modules.codec.weights": "modules.codec.formats.weights",
    "modules.codec.whisper_encoder": "modules.codec.parts.whisper_encoder",
    "modules.codec.xcodec2": "modules.codec.formats.xcodec2",
    "modules.lm.answers": "modules.lm.text.answers",
    "modules.lm.cache": "modules.lm.sampling.kv_cache",
    "modules.lm.compute": "modules.lm.flops",
    "modules.lm.decoding": "modules.lm.sampling.decoding_batch",
    "modules.lm.distribution": "modules.lm.sampling.distribution",
    "modules.lm.documents": "modules.lm.text.prompt_format",
    "modules.lm.huggingface_tokenizer": "modules.lm.text.huggingface_tokenizer",
    "modules.lm.noise": "modules.lm.sampling.noise",
    "modules.lm.parallel": "modules.lm.sharding",
    "modules.lm.plan": "modules.lm.resource_plan",
    "modules.lm.products": "modules.lm.sampling.onednn_linear",
    "modules.lm.prompt_format": "modules.lm.text.prompt_format",
    "modules.lm.sampler": "modules.lm.sampling.sampler",
    "modules.lm.tokenizer": "modules.lm.text.byte_tokenizer",
    "modules.lm.vllm_engine": "modules.lm.sampling.vllm_engine",
    "modules.lm.vllm_sampler": "modules.lm.sampling.vllm_sampler",
    "modules.lm.vllm_worker": "modules.lm.sampling.vllm_worker",
    "modules.search.adaptive": "modules.search.algorithms.adaptive",
    "modules.search.best_of_n": "modules.search.algorithms.best_of_n",
    "modules.search.candidate_tables": "modules.search.analysis.candidate_tables",
    "modules.search.candidates": "modules.search.candidate_store",
    "modules.search.comparisons": "modules.search.analysis.comparisons",
    "modules.search.curves": "modules.search.analysis.curves",
    "modules.search.diverse_beam": "modules.search.algorithms.diverse_beam",
    "modules.search.equal_compute": "modules.search.analysis.equal_compute",
    "modules.search.estimators": "modules.search.analysis.expected_best_of_n",
    "modules.search.families": "modules.search.analysis.families",
    "modules.search.ledger": "modules.search.costs",
    "modules.search.overoptimisation": "modules.search.analysis.overoptimisation",
    "modules.search.partial_beam": "modules.search.algorithms.partial_beam",
    "modules.search.process_beam": "modules.search.algorithms.process_beam",
    "modules.search.results": "modules.search.analysis.results",
    "modules.search.seeds": "modules.search.analysis.seeds",
    "modules.search.whole_file": "modules.atomic_file",
    "modules.verifiers.audio_models": "modules.verifiers.embeddings.audio_models",
    "modules.verifiers.ctc": "modules.verifiers.recognisers.ctc",
    "modules.verifiers.funasr_models": "modules.verifiers.embeddings.funasr_models",
    "modules.verifiers.normalise": "modules.verifiers.recognisers.normalise",
    "modules.verifiers.sphinx": "modules.verifiers.recognisers.pocketsphinx",
    "modules.verifiers.wavlm_speaker": "modules.verifiers.embeddings.wavlm_speaker",
    "modules.verifiers.whisper": "modules.verifiers.recognisers.whisper",
    "modules.verifiers.written_english": "modules.verifiers.recognisers.written_english",
}
# Classes that went elsewhere than the rest of their module.
CLASSES = {
    "callbacks.codec_columns.QuotedTable": "modules.evaluation.quoted_table.QuotedTable",
    "callbacks.codec_estimates.Estimate": "modules.statistics.Estimate",
    "callbacks.speech_understanding.SpeechUnderstanding": "callbacks.recognition_evaluation.RecognitionEvaluation",
    "datamodules.benchmark_prompts.BenchmarkDataModule": (
        "datamodules.prompt_sets.published_prompts.PublishedPromptDataModule"
    ),
    "datamodules.prompt_sets.published_prompts.BenchmarkDataModule": (
        "datamodules.prompt_sets.published_prompts.PublishedPromptDataModule"
    ),
    "lightning.pytorch.callbacks.EMAWeightAveraging": "callbacks.weight_averaging.EMAWeightAveraging",
    "modules.codec.activations.AliasFreeSnake": "modules.codec.parts.alias_free_snake.AliasFreeSnake",
    "modules.codec.parts.snake.AliasFreeSnake": "modules.codec.parts.alias_free_snake.AliasFreeSnake",
    "modules.api.Resynthesiser": "modules.evaluation.systems.Resynthesiser",
    "modules.codec.streaming.StreamingResynthesiser": "modules.evaluation.streaming_system.StreamingResynthesiser",
    "modules.search.process_beam.Beam": "modules.search.algorithms.beams.Beam",
    "modules.search.process_beam.BeamSettings": "modules.search.algorithms.beams.BeamSettings",
    "modules.search.sweep.Panel": "modules.search.panel.Panel",
    "modules.verifiers.speaker.Resemblyzer": "modules.verifiers.embeddings.resemblyzer.Resemblyzer",
    "modules.verifiers.alignment.PhonemeAligner": "modules.frontend.alignment.PhonemeAligner",
}
# Arguments of a data module, and its class.
ARGUMENTS = {"benchmarks": "prompt_sets"}
RENAMED_IN = "datamodules.prompt_sets.published_prompts.PublishedPromptDataModule"
# Folders of config files.
CONFIGS = {
    "configs/size/": "configs/lm/size/",
    "configs/hardware/": "configs/lm/hardware/",
    "configs/data/": "configs/lm/data/",
}


def current_name(path: str) -> str:
    """Today's class path of an old one; any other text as it is."""
    module, _, name = path.rpartition(".")
    if path in CLASSES:
        return CLASSES[path]
    return f"{MODULES[module]}.{name}" if module in MODULES and name.isidentifier() else path


def with_current_names(value: Any, place: str = "", class_path: str | None = None) -> Any:
    """A config or a description of hyper-parameters, at any depth, with today's class paths and arguments.

    `place`: the key that holds the value; `class_path`: the class whose arguments it holds, where that is known.
    """
    if isinstance(value, str):
        return current_name(value)
    if isinstance(value, dict):
        names = ARGUMENTS if place in ("data", "init_args") and class_path in (None, RENAMED_IN) else {}
        own = with_current_names(value.get("class_path"))
        return {names.get(key, key): with_current_names(item, key, own) for key, item in value.items()}
    return [with_current_names(item) for item in value] if isinstance(value, list) else value


def current_words(words: Sequence[str]) -> list[str]:
    """Words of the command line with today's class paths, arguments and config files."""
    words = [re.sub(r"(?<![\w.])[a-z]\w*(\.\w+)+", lambda match: current_name(match[0]), word) for word in words]
    for old, new in ARGUMENTS.items():
        words = [re.sub(rf"^(--data\.(?:init_args\.)?){old}(?![^.=+])", rf"\g<1>{new}", word) for word in words]
    options = [word.rpartition("=") for word in words]
    return [f"{option}{equals}{current_config(value)}" for option, equals, value in options]


def current_config(path: str) -> str:
    """Today's path of a config file that has moved: where nothing is at the old one, and something at the new one."""
    for old, new in CONFIGS.items():
        moved = path.replace(old, new)
        if moved != path and not Path(path).exists() and Path(moved).exists():
            return moved
    return path
