"""The nano language model's conversations: what it is trained on and how it is asked to rewrite."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lens_core.chat import (
    FINAL_HEADER,
    IMAGE_INSTRUCTION,
    IMAGE_THOUGHT,
    RenderedChat,
    render_chat,
    render_image_prompt,
)
from lens_core.nano.scenes import Scene
from lens_core.nano.vocabulary import REGIONS

REWRITE_INSTRUCTION = "Rewrite the request as one detailed description of a picture."
"""The developer message under which the nano model turns a request into a dense caption."""

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|return|>",
    "<|constrain|>",
    "<|call|>",
)
"""Control tokens of the harmony format, the first also the padding."""

CHAT_WORDS = ("system", "developer", "user", "assistant", "analysis", "final")
"""Roles and channels of the format."""

_PATTERN = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def rewrite_chat(request: str, date: str) -> RenderedChat:
    """Ask for a dense caption of a request; generation goes on inside the final channel."""
    return render_chat(request, developer=REWRITE_INSTRUCTION, prefill=FINAL_HEADER, date=date)


def listing(scene: Scene) -> str:
    """What is where, region by region: the answer the model learns to give to a dense caption."""
    items = sorted(
        (REGIONS.index(scene.region(item)), item.size_word, item.color, item.cls)
        for item in scene.objects
    )
    return "; ".join(
        f"{REGIONS[region]}: {size} {color} {cls}" for region, size, color, cls in items
    )


def train_tokenizer(captions: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the captions, with the harmony tokens.

    Each fixed sentence of the chat format becomes a single token, so that a nano prompt is mostly
    prompt. Any text can be encoded, byte by byte if need be.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    fixed = [AddedToken(text, special=True, normalized=False) for text in fixed_sentences()]
    tokenizer.add_special_tokens(fixed)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|start|>",
        eos_token="<|return|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def fixed_sentences() -> list[str]:
    """The parts of the chat format that never change, as they stand between control tokens."""
    date = "2000-01-01"
    prefix = render_image_prompt("", date).prefix
    before, after = prefix.split(date)
    head = before.split("<|message|>")[1]
    effort, rest = after.split("medium")
    channels = rest.split("<|end|>")[0]
    instructions = [
        f"# Instructions\n\n{text}\n\n" for text in (IMAGE_INSTRUCTION, REWRITE_INSTRUCTION)
    ]
    return [head, effort, channels, *instructions, IMAGE_THOUGHT]
