"""What a run logs: losses by timestep and bucket, speed, utilisation, trackers."""

import builtins
import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.flops import training_flops
from lens_core.training.heldout import TIMESTEPS, validation_loss
from lens_core.training.journal import Journal
from lens_core.training.metrics import TrainingMetrics
from lens_core.training.trackers import TrackerMissingError, open_trackers, scalars
from lens_core.training.workers import Workers
from tiny_training import MODEL, noise_batch, run, tiny_config


def test_losses_are_told_apart_by_timestep_and_bucket() -> None:
    metrics = TrainingMetrics(tiny_config(), torch.device("cpu"), Workers())
    timesteps = torch.tensor([0.1, 0.3, 0.3, 0.99])
    for number, factor in ((0, 1.0), (1, 10.0)):
        losses = factor * torch.tensor([1.0, 2.0, 4.0, 8.0])
        metrics.add(noise_batch(number), losses, timesteps)
    record = metrics.record()
    assert record["bins"] == [5.5, 16.5, 0.0, 44.0]
    assert record["buckets"] == {"48x80": 37.5, "64x64": 3.75}
    assert record["loss"] == pytest.approx(20.625)
    assert metrics.record()["loss"] == 0


def test_speed_counts_what_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens without padding, model operations of each row, a peak of the user's."""
    clock = iter([0.0, 2.0, 2.0])
    monkeypatch.setattr("lens_core.training.metrics.time.perf_counter", lambda: next(clock))
    config = tiny_config(peak_tflops=1e-6)
    metrics = TrainingMetrics(config, torch.device("cpu"), Workers())
    batch = noise_batch(0)
    metrics.add(batch, torch.ones(4), torch.full((4,), 0.5))
    record = metrics.record()
    text = [4, 5, 6, 0]
    assert record["images_per_second"] == 2
    assert record["tokens_per_second"] == (4 * 16 + sum(text)) / 2
    flops = sum(training_flops(MODEL, 16, length) for length in text)
    assert record["mfu"] == pytest.approx(flops / 2 / 1e6, abs=1e-4)
    assert record["memory_gb"] > 0.05


def test_records_may_follow_within_a_tick_of_a_coarse_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of Windows stands still for 16 milliseconds, unless it is the one for short times."""
    monkeypatch.setattr("time.monotonic", lambda: 1.0)
    metrics = TrainingMetrics(tiny_config(), torch.device("cpu"), Workers())
    metrics.add(noise_batch(0), torch.ones(4), torch.full((4,), 0.5))
    assert metrics.record()["images_per_second"] > 0


def test_memory_is_measured_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    process = types.SimpleNamespace(
        memory_info=lambda: types.SimpleNamespace(peak_wset=3_000_000_000)
    )
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("psutil.Process", lambda: process)
    metrics = TrainingMetrics(tiny_config(), torch.device("cpu"), Workers())
    assert metrics.record()["memory_gb"] == 3


def test_utilisation_is_unknown_without_a_peak() -> None:
    metrics = TrainingMetrics(tiny_config(), torch.device("cpu"), Workers())
    metrics.add(noise_batch(0), torch.ones(4), torch.full((4,), 0.5))
    assert metrics.record()["mfu"] is None


def test_validation_loss_is_that_of_the_average_at_fixed_times() -> None:
    """A fresh model predicts zero: the loss is the mean square of noise - data, at every look."""
    training = DenoiserTraining.create(tiny_config(precision="bfloat16"), Workers())
    before = {name: tensor.clone() for name, tensor in training.tensors().items()}
    batches = [noise_batch(7), noise_batch(8)]
    first, second = (validation_loss(training, batches, Workers()) for _ in range(2))
    assert first == second
    assert len(first["bins"]) == len(TIMESTEPS)
    data = sum(float(batch.latents.square().mean()) for batch in batches) / 2
    assert first["loss"] == pytest.approx(1 + data, rel=0.1)
    for name, tensor in training.tensors().items():
        assert torch.equal(tensor, before[name])


def test_a_run_logs_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, Workers(), tiny_config(steps=2, trackers=("tensorboard",), validate_every=2))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in lines]
    )
    names = events.Tags()["scalars"]
    assert {"bins/0", "buckets/64x64", "norm", "validation/loss", "validation/bins/7"} <= set(names)


def test_a_resumed_run_takes_steps_back_that_were_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read in the order of their names, of which a process numbers the end:
    # the tenth would come before the ninth. Runs that go on are another process, seconds later.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    told = {"trackers": ("tensorboard",), "save_every": 2}
    run(tmp_path, Workers(), tiny_config(steps=3, **told))
    shutil.rmtree(sorted((tmp_path / "checkpoints").glob("step-*"))[-1])
    run(tmp_path, Workers(), tiny_config(steps=4, **told))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    with pytest.raises(TrackerMissingError, match="pip install wandb"):
        open_trackers(["wandb"], tmp_path)


def test_wandb_gets_numbers_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through its own interface, of which a stand-in notes the calls."""
    calls: list[Any] = []
    service = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end")
    )
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)
    module.init = lambda **_: service  # type: ignore[attr-defined]
    module.Image = lambda path: f"picture {Path(path).name}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    Image.new("RGB", (4, 4)).save(tmp_path / "grid.png")
    journal = Journal(tmp_path, 10, 0, open_trackers(["wandb"], tmp_path))
    journal.report(3, loss=0.5, bins=[0.25, 0.75], note="text")
    journal.picture(3, "samples", tmp_path / "grid.png")
    journal.close()
    assert calls == [
        (3, {"loss": 0.5, "bins/0": 0.25, "bins/1": 0.75}),
        (3, {"samples": "picture grid.png"}),
        "end",
    ]


def test_trackers_are_imported_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refusing(name: str, *rest: Any, **options: Any) -> Any:
        assert not name.startswith(("wandb", "torch.utils.tensorboard")), name
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    assert open_trackers([], tmp_path) == []
    assert dict(scalars({"a": {"b": [1, True]}, "c": None})) == {"a/b/0": 1.0, "a/b/1": 1.0}


def test_the_bar_tells_the_remaining_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path, 10, 0)
    journal.report(5, loss=0.5)
    journal.close()
    line = capsys.readouterr().err
    assert line.startswith("[##########----------] step 5/10 loss 0.5 | ")
    assert line.rstrip().endswith("left")
