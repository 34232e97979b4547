"""Conversations of the nano language model: its training data and the rewriting prompt."""

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
"""The developer message that makes the nano model turn a request into a dense caption."""

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
"""Control tokens of the harmony format; the first is also the padding token."""

CHAT_WORDS = ("system", "developer", "user", "assistant", "analysis", "final")
"""Roles and channels of the format."""

_PATTERN = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def rewrite_chat(request: str, date: str) -> RenderedChat:
    """Ask for a dense caption of a request; generation continues inside the final channel."""
    return render_chat(request, developer=REWRITE_INSTRUCTION, prefill=FINAL_HEADER, date=date)


def listing(scene: Scene) -> str:
    """List what is where, region by region: the answer the model learns for a dense caption."""
    items = sorted(
        (REGIONS.index(scene.region(item)), item.size_word, item.color, item.cls)
        for item in scene.objects
    )
    return "; ".join(
        f"{REGIONS[region]}: {size} {color} {cls}" for region, size, color, cls in items
    )


def train_tokenizer(captions: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on captions and add the harmony tokens.

    Each fixed sentence of the chat format becomes a single token, so the format takes up little of
    a nano prompt. Any text can be encoded, byte by byte if necessary.
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
    """Return the parts of the chat format that never change, split at the control tokens."""
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
