"""Configurations of models whose files may not contain one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GptOssConfig

from lens_core.checkpoint_files import read_config, read_json
from lens_core.checkpoints.header import config_in
from lens_core.checkpoints.weights import Weights
from lens_core.errors import CheckpointError

Config = Mapping[str, Any] | str | Path
"""A configuration, or the JSON file it is in."""

_GGUF_ROPE = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}


def stated_config(weights: Weights, given: Config | None = None) -> dict[str, Any] | None:
    """What the caller, the folder or the file says, in that order; None if nothing does.

    Raises:
        CheckpointError: Not a JSON object.
    """
    if given is not None:
        return dict(given) if isinstance(given, Mapping) else read_json(Path(given))
    if weights.path.is_dir():
        return read_config(weights.path)
    return config_in(weights.metadata, weights.path)


def encoder_config(weights: Weights, given: Config | None = None) -> GptOssConfig:
    """The text encoder's, from what is stated, or that of GPT-OSS-20B.

    Raises:
        CheckpointError: It is of another model type.
    """
    stated = stated_config(weights, given)
    if stated is None:
        if any(header.container == "gguf" for header in weights.headers):
            return _from_gguf(weights)
        return released_encoder_config()
    if stated.get("model_type", "gpt_oss") != "gpt_oss":
        raise CheckpointError(
            f"{weights.path} has model_type {stated['model_type']!r}; the text encoder of Lens is "
            "'gpt_oss'"
        )
    return _gpt_oss(weights, stated)


def _gpt_oss(weights: Weights, values: Mapping[str, Any]) -> GptOssConfig:
    with config_errors(weights.path, "GPT-OSS"):
        return GptOssConfig(**values)


@contextmanager
def config_errors(path: Path, kind: str) -> Iterator[None]:
    """Report what other libraries raise about a bad configuration as a `CheckpointError`.

    Args:
        path: Where the configuration comes from, for the message.
        kind: The model that is built from it, for the message.

    Raises:
        CheckpointError: Anything was raised inside.
    """
    try:
        yield
    except Exception as error:  # They check little and fail where they first compute with it.
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not the configuration of a {kind}: {reason}") from error


def released_encoder_config() -> GptOssConfig:
    """The configuration of `openai/gpt-oss-20b`."""
    return GptOssConfig(
        num_hidden_layers=24, num_local_experts=32, pad_token_id=199999, eos_token_id=200002
    )


def _from_gguf(weights: Weights) -> GptOssConfig:
    """Read llama.cpp's hyperparameters."""
    metadata = weights.metadata
    if metadata.get("general.architecture") != "gpt-oss":
        raise CheckpointError(
            f"{weights.path} is a GGUF of {metadata.get('general.architecture')!r}; the text "
            "encoder of Lens is 'gpt-oss'"
        )
    value = {name.removeprefix("gpt-oss."): entry for name, entry in metadata.items()}
    try:
        stated = {
            "vocab_size": weights.tensors["token_embd.weight"].shape[0],
            "num_hidden_layers": value["block_count"],
            "hidden_size": value["embedding_length"],
            "intermediate_size": value["expert_feed_forward_length"],
            "num_attention_heads": value["attention.head_count"],
            "num_key_value_heads": value["attention.head_count_kv"],
            "head_dim": value["attention.key_length"],
            "rms_norm_eps": value["attention.layer_norm_rms_epsilon"],
            "sliding_window": value["attention.sliding_window"],
            "num_local_experts": value["expert_count"],
            "num_experts_per_tok": value["expert_used_count"],
            "max_position_embeddings": value["context_length"],
            "rope_parameters": _GGUF_ROPE
            | {
                "rope_theta": value["rope.freq_base"],
                "factor": value["rope.scaling.factor"],
                "original_max_position_embeddings": value["rope.scaling.original_context_length"],
            },
            "pad_token_id": value.get("tokenizer.ggml.padding_token_id", 199999),
            "eos_token_id": value.get("tokenizer.ggml.eos_token_id", 200002),
            "tie_word_embeddings": False,
        }
    except KeyError as error:
        raise CheckpointError(f"{weights.path} lacks the entry {error.args[0]!r}") from error
    return _gpt_oss(weights, stated)
