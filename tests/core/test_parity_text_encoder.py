"""Text features against the published code, and the text encoder as a language model."""

import json
from pathlib import Path
from threading import Thread

import pytest
import torch
from transformers import GptOssConfig

from golden_components import cases, max_error, read_json
from lens_core import (
    CheckpointError,
    ComponentError,
    LensTextEncoder,
    ParameterError,
    PrecisionError,
)
from tiny_components import tiny_text_encoder


@pytest.fixture(scope="module")
def encoder(golden_checkpoint: Path) -> LensTextEncoder:
    return LensTextEncoder.from_pretrained(golden_checkpoint / "text_encoder")


@torch.no_grad()
def test_features_agree_with_the_published_code(encoder: LensTextEncoder) -> None:
    golden = cases("text_encoder")
    features = encoder.features(golden["input_ids"], golden["attention_mask"], [0, 1, 2, 3])
    real = golden["attention_mask"].bool()
    for layer, found in enumerate(features):
        assert max_error(found[real], golden[f"layer{layer}"][real]) < 1e-4


@torch.no_grad()
def test_features_of_the_last_layer_are_not_normalised(encoder: LensTextEncoder) -> None:
    ids = torch.arange(5)[None]
    last, first = encoder.features(ids, None, [4, 0])
    assert max_error(encoder.model.norm(last), encoder.model(input_ids=ids)[0]) < 1e-6
    assert max_error(last, encoder.model(input_ids=ids)[0]) > 1e-2
    assert torch.equal(first, encoder.features(ids, None, [0])[0])


@torch.no_grad()
def test_padding_does_not_touch_the_text(encoder: LensTextEncoder) -> None:
    golden = cases("text_encoder")
    row = int(golden["attention_mask"].sum(1).argmin())
    length = int(golden["attention_mask"][row].sum())
    alone = encoder.features(golden["input_ids"][row : row + 1, :length], None, [3])[0]
    assert max_error(alone[0], golden["layer3"][row, :length]) < 1e-4


@torch.no_grad()
def test_threads_that_share_an_encoder_do_not_mix_their_features() -> None:
    model, ids, others = tiny_text_encoder(), torch.arange(5)[None], torch.arange(6, 11)[None]
    expected = model.features(ids, None, [0, 1])
    layer = model.model.layers[1]

    def interrupt(*_: object) -> None:
        hook.remove()
        other = Thread(target=model.features, args=(others, None, [0, 1]))
        other.start()
        other.join()

    hook = layer.register_forward_pre_hook(interrupt)
    found = model.features(ids, None, [0, 1])
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_without_a_head_it_refuses_to_write(encoder: LensTextEncoder) -> None:
    assert not encoder.has_lm_head
    with pytest.raises(ComponentError, match=r"lm_head\.weight"):
        encoder.generate(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ComponentError, match=r"lm_head\.weight"):
        encoder(torch.zeros(1, 2, dtype=torch.long))


def test_a_layer_it_does_not_have_is_named(encoder: LensTextEncoder) -> None:
    with pytest.raises(ComponentError, match=r"layers 0 to 4, not \[5\]"):
        encoder.features(torch.zeros(1, 2, dtype=torch.long), None, [3, 5])


@torch.no_grad()
def test_greedy_generation_with_a_cache_follows_the_logits() -> None:
    model = tiny_text_encoder()
    ids = torch.tensor([[7, 8, 9]])
    written = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    for position in range(3, 7):
        logits = model(input_ids=written[:, :position]).logits[0, -1]
        assert written[0, position] == logits.argmax()


def test_a_head_survives_saving_and_its_absence_too(tmp_path: Path) -> None:
    for has_lm_head in (True, False):
        model = tiny_text_encoder(has_lm_head=has_lm_head)
        folder = tmp_path / str(has_lm_head)
        model.save_pretrained(folder)
        loaded = LensTextEncoder.from_pretrained(folder)
        assert loaded.has_lm_head is has_lm_head
        tensors, reloaded = model.state_dict(), loaded.state_dict()
        assert tensors.keys() == reloaded.keys()
        assert all(torch.equal(tensors[name], reloaded[name]) for name in tensors)


def test_rotary_settings_of_older_configurations_are_understood() -> None:
    new = read_json("text_encoder_config/config.json")
    old = dict(new)
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = rope
    with torch.device("cpu"):
        models = [
            LensTextEncoder(GptOssConfig(**config | {"vocab_size": 8, "pad_token_id": 0}))
            for config in (new, old)
        ]
    frequencies = [model.model.rotary_emb.inv_freq for model in models]
    assert torch.equal(*frequencies)
    assert models[0].model.rotary_emb.attention_scaling == pytest.approx(1.3466, abs=1e-4)
    assert models[1].model.rotary_emb.attention_scaling == pytest.approx(1.3466, abs=1e-4)


@torch.no_grad()
def test_a_cast_encoder_reads_like_one_loaded_in_that_precision(golden_checkpoint: Path) -> None:
    """With rounded frequencies the published encoder is 0.8 radians off after 500 tokens."""
    folder = golden_checkpoint / "text_encoder"
    loaded = LensTextEncoder.from_pretrained(folder, dtype=torch.bfloat16)
    assert LensTextEncoder.from_pretrained(folder, torch_dtype=torch.bfloat16).dtype == loaded.dtype
    with pytest.raises(ParameterError, match="contradict"):
        LensTextEncoder.from_pretrained(folder, dtype=torch.float32, torch_dtype=torch.bfloat16)
    cast = LensTextEncoder.from_pretrained(folder)
    exact = cast.model.rotary_emb.inv_freq.clone()
    ids = torch.arange(400)[None] * 37
    cast.to(torch.bfloat16)
    pairs = zip(*(m.features(ids, None, [0, 3]) for m in (cast, loaded)), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
    assert cast.get_input_embeddings().weight.dtype == torch.bfloat16
    assert torch.equal(cast.to(torch.float32).model.rotary_emb.inv_freq, exact)


def test_packed_weights_and_float16_are_refused(tmp_path: Path) -> None:
    model = tiny_text_encoder()
    model.save_pretrained(tmp_path)
    with pytest.raises(PrecisionError, match="float16"):
        LensTextEncoder.from_pretrained(tmp_path, dtype=torch.float16)
    config = json.loads((tmp_path / "config.json").read_text())
    packed = config | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(packed))
    with pytest.raises(CheckpointError, match="mxfp4"):
        LensTextEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="'llama'"):
        LensTextEncoder.from_pretrained(tmp_path)
