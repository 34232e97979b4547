"""The denoiser against outputs of the published code, and the full-size checkpoint's tensors."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_components import GOLDEN, case, max_error, read_json
from lens_core import ComponentError, ParameterError, PrecisionError
from lens_core.float64 import float64_device
from lens_core.rotary import image_positions, rotary_table
from lens_core.transformer import LensTransformer2DModel

CASES = ["even", "odd", "uncond", "wide"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> LensTransformer2DModel:
    transformer = LensTransformer2DModel.from_config(read_json("transformer_config.json"))
    transformer.load_state_dict(load_file(GOLDEN / "transformer.safetensors"))
    return transformer.eval()


def run(
    model: LensTransformer2DModel, data: dict[str, Tensor], rows: slice, length: int | None
) -> Tensor:
    """Some rows of a case, with the golden mask, or without one on the first `length` tokens."""
    height, width = data["hw"].tolist()
    features = [data[f"feat{i}"][rows, :length] for i in range(4)]
    mask = data["mask"][rows].bool() if length is None else None
    with torch.no_grad():
        return model(
            data["hidden_states"][rows],
            None if length == 0 else features,
            mask,
            data["timestep"][rows],
            [(1, height, width)],
        ).sample


@pytest.mark.parametrize("name", CASES)
def test_masked_batch_agrees_with_the_published_code(
    model: LensTransformer2DModel, name: str
) -> None:
    data = case("transformer", name)
    assert max_error(run(model, data, slice(None), None), data["output"]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_exact_lengths_without_a_mask_are_the_same_function(
    model: LensTransformer2DModel, name: str
) -> None:
    data = case("transformer", name)
    for row, length in enumerate(data["mask"].sum(1).tolist()):
        rows = slice(row, row + 1)
        assert max_error(run(model, data, rows, length), data["output"][rows]) < TOLERANCE


def test_full_size_tensors_are_those_of_the_checkpoint() -> None:
    with torch.device("meta"):
        tensors = LensTransformer2DModel().state_dict()
    expected = read_json("lens_state_dict.json")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == expected
    assert len(tensors) == 1264
    assert sum(tensor.numel() for tensor in tensors.values()) == 4_104_225_152


def test_text_order_and_time_matter(model: LensTransformer2DModel) -> None:
    data = dict(case("transformer", "even"))
    base = run(model, data, slice(None), None)
    swapped = data | {"feat0": data["feat1"], "feat1": data["feat0"]}
    assert max_error(run(model, swapped, slice(None), None), base) > 1e-3
    later = data | {"timestep": data["timestep"] * 0.5}
    assert max_error(run(model, later, slice(None), None), base) > 1e-3


def test_gradient_checkpointing_changes_no_gradient(model: LensTransformer2DModel) -> None:
    data = case("transformer", "odd")

    def gradient() -> Tensor:
        model.zero_grad()
        height, width = data["hw"].tolist()
        out = model(
            data["hidden_states"],
            [data[f"feat{i}"] for i in range(4)],
            data["mask"].bool(),
            data["timestep"],
            [(1, height, width)],
        ).sample
        out.square().mean().backward()
        weight = model.transformer_blocks[0].txt_mlp.w1.weight
        assert weight.grad is not None
        return weight.grad.clone()

    plain = gradient()
    model.enable_gradient_checkpointing()
    model.train()
    try:
        checkpointed = gradient()
    finally:
        model.disable_gradient_checkpointing()
        model.eval()
        model.zero_grad()
    assert plain.abs().max() > 0
    assert max_error(checkpointed, plain) < 1e-7


@pytest.mark.parametrize("shapes", [[(1, 4, 6), (1, 6, 4)], [(2, 4, 3)], [(4, 6)], []])
def test_pictures_of_a_batch_have_one_size_and_one_frame(
    model: LensTransformer2DModel, shapes: list[tuple[int, int, int]]
) -> None:
    image = case("transformer", "even")["hidden_states"].expand(2, -1, -1)
    with pytest.raises(ParameterError, match="img_shapes"):
        model(image, None, None, torch.ones(2), shapes)
    one, each = (model(image, None, None, torch.ones(2), [(1, 4, 6)] * n).sample for n in (1, 2))
    assert torch.equal(one, each)


def test_bad_input_is_named(model: LensTransformer2DModel) -> None:
    data = case("transformer", "even")
    half = dict(data) | {"hidden_states": data["hidden_states"].half()}
    with pytest.raises(PrecisionError, match="float16"):
        run(model, half, slice(None), None)
    short = dict(data) | {"hidden_states": data["hidden_states"][:, 1:]}
    with pytest.raises(ParameterError, match=r"\[batch, 24, 128\]"):
        run(model, short, slice(None), None)
    with pytest.raises(ParameterError, match="2 tensors"):
        model(
            data["hidden_states"],
            [data["feat0"], data["feat1"]],
            None,
            data["timestep"],
            [(1, *data["hw"].tolist())],
        )
    narrow = dict(data) | {"feat3": data["feat3"][..., 1:]}
    with pytest.raises(ParameterError, match=r"shapes .* one of"):
        run(model, narrow, slice(None), None)
    with pytest.raises(ParameterError, match="mask has shape"):
        run(model, dict(data) | {"mask": data["mask"][:, 1:]}, slice(None), None)
    with pytest.raises(ParameterError, match="no effect"):
        model(
            data["hidden_states"],
            None,
            None,
            data["timestep"],
            [(1, *data["hw"].tolist())],
            attention_kwargs={"scale": 0.5},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_dim": 100}, "inner_dim 100"),
        ({"axes_dims_rope": (8, 28, 20)}, "axes_dims_rope"),
        ({"in_channels": 64}, "in_channels 64"),
        ({"rms_norm": False}, "rms_norm"),
    ],
)
def test_contradicting_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ComponentError, match=message):
        LensTransformer2DModel.from_config(read_json("transformer_config.json") | changes)


def test_angles_are_formed_where_float64_can_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs have none, nor have most of Intel's: there every picture failed."""
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("xpu", 0)) == torch.device("cpu")
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    asked: list[torch.device] = []

    def elsewhere(device: torch.device) -> torch.device:
        asked.append(device)
        return torch.device("meta")

    monkeypatch.setattr("lens_core.rotary.float64_device", elsewhere)
    positions = image_positions(2, 3, torch.device("meta"))
    cosines, sines = rotary_table(positions, (8, 12, 12))
    assert asked == [torch.device("meta")]
    assert (cosines.shape, sines.dtype) == ((6, 32), torch.float32)
