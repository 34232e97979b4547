"""Training of the nano GPT-OSS: a language model of captions that also rewrites requests.

Two kinds of conversation, in the harmony format. In one the user gives a dense caption, exactly as
the denoiser's text encoder reads it, and the model answers what is where; in the other the user
gives a brief request and the model answers with a dense caption. The user's words and the answers
are learnt; nothing else is.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GptOssConfig, PreTrainedTokenizerFast

from lens_core.chat import DEFAULT_DATE, RenderedChat, render_image_prompt
from lens_core.nano.captions import brief_caption, dense_caption
from lens_core.nano.chat import CHAT_WORDS, listing, rewrite_chat, train_tokenizer
from lens_core.nano.sampling import sample_scene
from lens_core.nano.vocabulary import COLORS
from lens_core.text_encoder import LensTextEncoder
from lens_core.training.config import LanguageConfig
from lens_core.training.journal import Journal
from lens_core.training.optim import rate_factor, set_rates
from lens_core.training.state import resume_component, save_component

Example = tuple[list[int], list[bool]]
"""Token ids, and which of them are learnt."""

_REWRITE_SHARE = 0.5


def train_language(config: LanguageConfig, out: Path, components: Path) -> None:
    """Train, or resume in `out`; leaves `text_encoder` and `tokenizer` in `components`.

    Args:
        config: Settings; the same ones must be given again to resume.
        out: Run folder, for `log.jsonl` and `state/`.
        components: Where the finished model and its tokenizer go.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    tokenizer = _tokenizer(config, components / "tokenizer")
    model = LensTextEncoder(model_config(config, tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
    optimizer.param_groups[0]["peak"] = config.learning_rate
    first = resume_component(out / "state", "model", model, optimizer)
    journal = Journal.of_stage(out, config, first)
    for step in range(first, config.steps):
        set_rates([optimizer], rate_factor(step, config))
        ids, labels = make_batch(tokenizer, config, step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % config.log_every == 0:
            journal.report(step + 1, loss=loss.item())
        if (step + 1) % config.save_every == 0:
            save_component(out / "state", "model", model, optimizer, step + 1)
    model.save_pretrained(components / "text_encoder")
    journal.close()


def model_config(config: LanguageConfig, tokenizer: PreTrainedTokenizerFast) -> GptOssConfig:
    """The GPT-OSS configuration that fits a tokenizer."""
    layers = int(config.model["num_hidden_layers"])
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    return GptOssConfig(
        **config.model,
        layer_types=kinds,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        attention_bias=True,
        swiglu_limit=7.0,
    )


def make_batch(
    tokenizer: PreTrainedTokenizerFast, config: LanguageConfig, step: int
) -> tuple[Tensor, Tensor]:
    """Ids and labels `[batch, tokens]`, padded on the right; they depend on seed and step alone."""
    rng = np.random.default_rng((config.seed, 1, step))
    examples = [make_example(tokenizer, rng) for _ in range(config.batch_size)]
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.full((len(examples), longest), int(tokenizer.pad_token_id or 0))
    labels = torch.full_like(ids, -100)
    for row, (tokens, learnt) in enumerate(examples):
        sequence = torch.tensor(tokens)
        ids[row, : len(tokens)] = sequence
        labels[row, : len(tokens)] = torch.where(torch.tensor(learnt), sequence, -100)
    return ids, labels


def make_example(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> Example:
    """One conversation about a random scene, on a random day half the time."""
    scene = sample_scene(rng)
    date = DEFAULT_DATE if rng.random() < 0.5 else _random_date(rng)
    brief, dense = brief_caption(scene, rng), dense_caption(scene, rng)
    if rng.random() < _REWRITE_SHARE:
        return _encode(tokenizer, rewrite_chat(_vary(brief, rng), date), dense)
    return _encode(tokenizer, render_image_prompt(dense, date), listing(scene))


def _vary(brief: str, rng: np.random.Generator) -> str:
    """Users capitalise, or end with a full stop, or do not."""
    if rng.random() < 0.2:
        brief = brief[0].upper() + brief[1:]
    return brief + "." if rng.random() < 0.1 else brief


def _encode(tokenizer: PreTrainedTokenizerFast, chat: RenderedChat, answer: str) -> Example:
    parts = (chat.prefix, chat.user, chat.suffix, answer + "<|return|>")
    ids: list[int] = []
    learnt: list[bool] = []
    for part, wanted in zip(parts, (False, True, False, True), strict=True):
        tokens = tokenizer.encode(part, add_special_tokens=False)
        ids += tokens
        learnt += [wanted] * len(tokens)
    return ids, learnt


def _random_date(rng: np.random.Generator) -> str:
    year, month, day = (int(rng.integers(*span)) for span in ((2020, 2036), (1, 13), (1, 29)))
    return f"{year}-{month:02d}-{day:02d}"


def _tokenizer(config: LanguageConfig, folder: Path) -> PreTrainedTokenizerFast:
    if (folder / "tokenizer.json").is_file():
        loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return loaded
    rng = np.random.default_rng((config.seed, 0))
    scenes = [sample_scene(rng) for _ in range(config.vocabulary_scenes)]
    captions = [dense_caption(scene, rng) for scene in scenes]
    captions += [brief_caption(scene, rng) for scene in scenes]
    captions += [listing(scene) for scene in scenes] + list(COLORS)
    captions += ["low medium high", *CHAT_WORDS] * len(scenes)
    tokenizer = train_tokenizer(captions, config.vocabulary)
    tokenizer.save_pretrained(folder)
    return tokenizer
