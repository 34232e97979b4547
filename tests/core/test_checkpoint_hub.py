"""Published models by name, downloaded from a hub on the loopback interface."""

import errno
import hashlib
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fake_hub import FakeHub, serve
from lens_core import (
    CheckpointError,
    HubUnreachableError,
    LensPipeline,
    LensTextEncoder,
    LensTransformer2DModel,
    ParameterError,
)
from lens_core.checkpoints import load, pull, sources
from lens_core.checkpoints.hub import Hub, HubSource, fetch_first
from lens_core.checkpoints.network import unreachable_reason
from lens_core.checkpoints.pull import pull_model
from lens_core.checkpoints.sources import PRESETS, Preset, find_preset
from lens_core.loading import LensDefaults
from tiny_components import tiny_pipeline, tiny_tokenizer

FIRST, SECOND = "1" * 40, "2" * 40
TRANSFORMER = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lens"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def hub(saved: Path, tmp_path: Path) -> Iterator[FakeHub]:
    root = tmp_path / "hub"
    shutil.copytree(saved, root / "good" / "lens" / FIRST)
    (root / "good" / "lens" / FIRST / "transformer" / "evil.bin").write_bytes(b"pickle")
    shutil.copytree(saved / "text_encoder", root / "stock" / "gpt" / SECOND)
    (root / "stock" / "gpt" / SECOND / "original").mkdir()
    (root / "stock" / "gpt" / SECOND / "original" / "m.safetensors").write_bytes(b"other form")
    with serve(root) as served:
        yield served


@pytest.fixture
def client(hub: FakeHub, tmp_path: Path) -> Hub:
    return Hub(hub.endpoint, tmp_path / "cache")


def test_a_denoiser_on_the_hub_is_checked_as_one_in_a_folder_is(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lens_core.checkpoints.hub.Hub", partial(Hub, hub.endpoint))

    def load(cache: str, **options: object) -> LensTransformer2DModel:
        folder = tmp_path / cache
        return LensTransformer2DModel.from_pretrained(
            "good/lens", subfolder="transformer", cache_dir=folder, **options
        )

    expected = tiny_pipeline().transformer.state_dict()
    loaded = load("a", torch_dtype=torch.bfloat16, token="hf_secret")
    assert loaded.dtype == torch.bfloat16
    assert not any("text_encoder" in asked or ".bin" in asked for asked in hub.asked)
    again = load("a", revision=FIRST, local_files_only=True).state_dict()
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    encoder = LensTextEncoder.from_pretrained(
        "good/lens", subfolder="text_encoder", cache_dir=tmp_path / "a"
    )
    own = tiny_pipeline().text_encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in encoder.state_dict().items())
    path = hub.root / "good" / "lens" / FIRST / "transformer" / TRANSFORMER
    content = load_file(path)
    content["img_in.bias"] = content["img_in.bias"].int()
    save_file(content, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"other kind: img_in\.bias I32"):
        load("b")
    with pytest.raises(CheckpointError, match="good/other"):
        LensTransformer2DModel.from_pretrained("good/other", cache_dir=tmp_path / "c")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def preset(saved: Path, **changes: object) -> Preset:
    known = {TRANSFORMER: digest(saved / "transformer" / TRANSFORMER)}
    tiny = Preset(
        "tiny",
        LensDefaults(64, 48, 3, 1.5),
        (
            HubSource("gone/lens", "transformer", FIRST),
            HubSource("good/lens", f"transformer/{TRANSFORMER}.missing.safetensors", FIRST),
            HubSource("good/lens", "transformer", FIRST, known),
        ),
        (HubSource("stock/gpt", "", SECOND),),
        (HubSource("good/lens", "vae"),),
    )
    return replace(tiny, **changes)


@pytest.fixture
def tiny(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    found = preset(saved)
    for module in (load, pull, sources):
        monkeypatch.setattr(module, "PRESETS", {**PRESETS, "tiny": found})
    return found


def test_published_models_have_their_steps_guidance_and_several_sources() -> None:
    table = {name: PRESETS[name].defaults for name in ("lens", "lens-turbo", "lens-base")}
    assert {n: (d.num_inference_steps, d.guidance_scale) for n, d in table.items()} == {
        "lens": (20, 5.0),
        "lens-turbo": (4, 1.0),
        "lens-base": (50, 5.0),
    }
    for found in PRESETS.values():
        every = [source for listed in found.components.values() for source in listed]
        assert not any(source.repository.startswith("microsoft/") for source in every)
        assert len(found.text_encoder) > 2
        assert len(found.vae) > 2
        for source in every:
            assert source.revision is None or len(source.revision) == 40
            assert all(len(value) == 64 for value in source.sha256.values())
    assert PRESETS["lens-turbo"].transformer[0].sha256
    with pytest.raises(ParameterError, match="lens-turbo"):
        find_preset("lens-mini")


def test_a_published_model_is_loaded_from_the_first_sources_that_work(
    tiny: Preset, client: Hub, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = LensPipeline.from_pretrained("tiny", hub=client, tokenizer=tiny_tokenizer())
    assert pipeline.defaults == LensDefaults(64, 48, 3, 1.5)
    assert pipeline.transformer.dtype == torch.bfloat16
    expected = tiny_pipeline().transformer.state_dict()
    state = pipeline.transformer.state_dict()
    assert all(torch.equal(state[name], expected[name].bfloat16()) for name in expected)
    assert "gone/lens" in caplog.text
    assert not any("evil.bin" in path or "original/" in path for path in hub.asked)
    asked = len(hub.asked)
    offline = replace(client, local_only=True)
    LensPipeline.from_pretrained("tiny", hub=offline, text_encoder=None, dtype=torch.float32)
    assert len(hub.asked) == asked


def test_what_is_given_is_not_downloaded(tiny: Preset, client: Hub, hub: FakeHub) -> None:
    own = tiny_pipeline()
    pipeline = LensPipeline.from_pretrained(
        "tiny", hub=client, text_encoder=None, vae=own.vae, dtype=torch.float32
    )
    assert pipeline.vae is own.vae
    assert not any(path.startswith("stock/") or "vae" in path for path in hub.asked)
    with pytest.raises(ParameterError, match="unet"):
        LensPipeline.from_pretrained("tiny", hub=client, unet=None)


def test_another_sha256_is_never_used(saved: Path, client: Hub) -> None:
    wrong = HubSource("good/lens", "transformer", FIRST, {TRANSFORMER: "0" * 64})
    with pytest.raises(CheckpointError, match="not the known 0000"):
        client.fetch(wrong)
    with pytest.raises(CheckpointError, match=r"has no other\.safetensors, whose sha256"):
        client.fetch(replace(wrong, sha256={"other.safetensors": "0" * 64}))
    right = replace(wrong, sha256={TRANSFORMER: digest(saved / "transformer" / TRANSFORMER)})
    told: list[str] = []
    path, used = fetch_first(client, [wrong, right], told.append)
    assert used is right
    assert len(told) == 1
    assert (path / TRANSFORMER).is_file()


def test_a_file_changed_after_it_was_checked_is_noticed(saved: Path, client: Hub) -> None:
    known = {TRANSFORMER: digest(saved / "transformer" / TRANSFORMER)}
    source = HubSource("good/lens", f"transformer/{TRANSFORMER}", FIRST, known)
    path = client.fetch(source)
    assert client.fetch(source) == path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        client.fetch(source)


def test_when_no_source_works_each_reason_is_told(
    saved: Path, tiny: Preset, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = preset(saved, vae=tiny.transformer[:2])
    monkeypatch.setattr(load, "PRESETS", {"tiny": lacking})
    with pytest.raises(CheckpointError) as caught:
        LensPipeline.from_pretrained("tiny", hub=client)
    assert "the vae of tiny: no source worked" in str(caught.value)
    assert str(caught.value).count("@11111111: ") == 2
    assert "Repository Not Found" in str(caught.value)
    nowhere = Hub(client.endpoint, tmp_path / "empty", local_only=True)
    with pytest.raises(CheckpointError, match="no source worked"):
        fetch_first(nowhere, tiny.text_encoder)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where no server listens."""
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def test_without_a_network_nothing_is_tried_again(
    tiny: Preset, nobody: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    started = time.monotonic()
    with pytest.raises(HubUnreachableError) as caught:
        list(pull_model("tiny", Hub(nobody, tmp_path / "cache"), tell=told.append))
    assert time.monotonic() - started < 3
    assert str(caught.value).count(f"is not in the cache, and {nobody} cannot be reached: ") == 3
    assert told == []
    assert "Retrying" not in "".join(capfd.readouterr())


def test_without_a_network_the_cache_is_used_at_once(
    tiny: Preset, client: Hub, nobody: str
) -> None:
    before = [part.path for part in pull_model("tiny", client)]
    started = time.monotonic()
    gone = replace(client, endpoint=nobody)
    assert [part.path for part in pull_model("tiny", gone)] == before
    file = HubSource("good/lens", f"transformer/{TRANSFORMER}", FIRST)
    assert gone.fetch(file) == client.fetch(file)
    assert time.monotonic() - started < 3


def test_a_hub_that_is_busy_is_asked_again(client: Hub, hub: FakeHub) -> None:
    hub.busy = 1
    assert client.fetch(HubSource("good/lens", f"transformer/{TRANSFORMER}", FIRST)).is_file()
    assert hub.busy == 0


class TestNoWay:
    """What is known at once, and what another attempt may mend."""

    def test_an_unknown_name(self, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        assert unreachable_reason("http://hub.invalid") == (
            "http://hub.invalid cannot be reached: Name or service not known"
        )
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert unreachable_reason("http://hub.invalid") == "", "a proxy may know the name"

    def test_one_that_takes_long(self, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def slow(*_: object, **__: object) -> None:
            late = TimeoutError(errno.ETIMEDOUT, "timed out")
            refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            raise ExceptionGroup("create_connection failed", [late, refused])

        monkeypatch.setattr(socket, "create_connection", slow)
        assert unreachable_reason(nobody) == ""

    def test_one_that_answers(self, hub: FakeHub) -> None:
        assert unreachable_reason(hub.endpoint) == ""
        assert unreachable_reason("nonsense") == ""


def test_a_repository_is_loaded_by_its_name_and_revision(client: Hub, hub: FakeHub) -> None:
    pipeline = LensPipeline.from_pretrained("good/lens", hub=client, revision=FIRST)
    assert pipeline.transformer.dtype == torch.float32
    assert pipeline.defaults == LensDefaults(64, 48, 2, 3.0)
    assert pipeline.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert not any("evil.bin" in path for path in hub.asked)
    with pytest.raises(CheckpointError, match="good/lens@22222222"):
        LensPipeline.from_pretrained("good/lens", hub=client, revision=SECOND)
    with pytest.raises(CheckpointError, match="gone/lens@main"):
        LensPipeline.from_pretrained("gone/lens", hub=client)
    with pytest.raises(ParameterError, match="only applies to hub repositories"):
        LensPipeline.from_pretrained("lens-turbo", hub=client, revision=FIRST)


def test_a_repository_of_turbo_is_run_as_turbo(client: Hub, saved: Path, hub: FakeHub) -> None:
    turbo = shutil.copytree(saved, hub.root / "anyone" / "Lens-Turbo" / FIRST)
    (turbo / "model_index.json").unlink()
    pipeline = LensPipeline.from_pretrained("anyone/Lens-Turbo", hub=client, text_encoder=None)
    assert pipeline.defaults == PRESETS["lens-turbo"].defaults


def test_a_local_folder_comes_before_a_repository(
    saved: Path, hub: FakeHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "good" / "lens")
    monkeypatch.chdir(tmp_path)
    LensPipeline.from_pretrained("good/lens", hub=client)
    assert hub.asked == []


def test_pulling_tells_where_parts_came_from(tiny: Preset, client: Hub) -> None:
    told: list[str] = []
    parts = list(pull_model("tiny", client, tell=told.append))
    assert [(part.component, part.commit, part.verified) for part in parts] == [
        ("transformer", FIRST, True),
        ("text_encoder", SECOND, False),
        ("vae", FIRST, False),
    ]
    assert len(told) == 2
    only = list(pull_model("tiny", client, only=["vae"]))
    assert [part.path for part in only] == [parts[2].path]
    whole = list(pull_model("good/lens", client, revision=FIRST))
    assert [part.component for part in whole] == ["model"]
    with pytest.raises(ParameterError, match="'unet'"):
        list(pull_model("tiny", client, only=["unet"]))
    with pytest.raises(ParameterError, match="fixed"):
        list(pull_model("tiny", client, revision=FIRST))
    with pytest.raises(ParameterError, match="neither a published model"):
        list(pull_model("nonsense", client))


def test_pulling_something_incomplete_is_an_error(client: Hub, hub: FakeHub) -> None:
    (hub.root / "good/lens" / FIRST / "vae" / TRANSFORMER).unlink()
    with pytest.raises(CheckpointError, match="vae"):
        list(pull_model("good/lens", client))
