"""The GPT-OSS tokenizer (o200k_harmony), packaged because single-file releases lack it."""

import lzma
from functools import cache
from importlib.resources import files

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast


@cache
def load_packaged_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of `openai/gpt-oss-20b`: 201,088 tokens, control tokens included.

    Loading takes a few seconds, so one instance is shared by the whole process.
    """
    return tokenizer_from_json(packaged_tokenizer_json())


def packaged_tokenizer_json() -> str:
    """Text of the tokenizer.json of `openai/gpt-oss-20b`."""
    packed = files("lens_core").joinpath("assets/gpt_oss_tokenizer.json.xz").read_bytes()
    return lzma.decompress(packed).decode("utf-8")


def tokenizer_from_json(text: str) -> PreTrainedTokenizerFast:
    """A GPT-OSS tokenizer of the text of its tokenizer.json."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        bos_token="<|startoftext|>",
        eos_token="<|return|>",
        pad_token="<|endoftext|>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
