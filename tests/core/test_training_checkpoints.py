"""Training states: killed runs, background writing, old forms, damage."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_core.errors import CheckpointError, NonFiniteError
from lens_core.training.checkpointing import Checkpoints
from lens_core.training.denoiser import DenoiserTraining, matrix_names
from lens_core.training.journal import Journal
from lens_core.training.rng import generator_states, restore_generators
from lens_core.training.workers import Workers
from tiny_training import losses, run, tiny_config

TESTS = Path(__file__).parents[1]


def state(folder: Path, step: int) -> dict[str, Tensor]:
    (file,) = (folder / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")
    return load_file(file)


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at whatever it is doing, and a torn state, against a run that is left alone."""
    settings = {"steps": 40, "save_every": 1, "keep_checkpoints": 2}
    run(tmp_path / "whole", Workers(), tiny_config(**settings))
    program = (
        "import json, sys; from pathlib import Path;"
        "from lens_core.training.workers import Workers;"
        "from tiny_training import run, tiny_config;"
        "run(Path(sys.argv[1]), Workers(), tiny_config(**json.loads(sys.argv[2])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(tmp_path / "killed"), json.dumps(settings)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "log.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(log.read_bytes().splitlines()) >= 5:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    # What a kill in the middle of writing leaves behind.
    torn = tmp_path / "killed" / "checkpoints" / "step-00000099"
    torn.mkdir()
    (torn / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half a fi")
    run(tmp_path / "killed", Workers(), tiny_config(**settings))
    assert_same_bits(state(tmp_path / "killed", 40), state(tmp_path / "whole", 40))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert not torn.exists()


def test_what_is_written_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    """Training goes on while a state is written; only complete states count."""
    checkpoints = Checkpoints(tmp_path, Workers(), keep=2)
    tensor = torch.zeros(1000, 1000)
    for step in (1, 2, 3):
        tensor.fill_(step)
        checkpoints.save(step, {"x": tensor, "scalar": tensor[0, 0]}, {"fixed": {"note": step}})
        tensor.fill_(-1)
    checkpoints.wait()
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    saved = checkpoints.latest()
    assert saved is not None
    assert (saved.values.step, saved.values.fixed) == (3, {"note": 3})
    targets = {"x": torch.empty(1000, 1000), "scalar": torch.empty(())}
    saved.read(targets)
    assert targets["x"].unique().tolist() == [3.0]
    assert targets["scalar"] == 3


def test_a_state_of_the_old_form_goes_on(tmp_path: Path) -> None:
    """Numbered optimiser states in one file are found under their weights' names."""
    config = tiny_config()
    run(tmp_path / "new", Workers(), config)
    modern = state(tmp_path / "new", 2)
    masters = DenoiserTraining.create(config, Workers()).weights.masters
    matrices = matrix_names(masters)
    owners = [matrices, [name for name in masters if name not in matrices]]
    old = {name: tensor for name, tensor in modern.items() if not name.startswith("optimizer")}
    for number, names in enumerate(owners):
        for index, owner in enumerate(names):
            for entry in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step"):
                if (tensor := modern.get(f"optimizer.{owner}.{entry}")) is not None:
                    old[f"optimizer{number}.{index}.{entry}"] = tensor
    assert len(old) == len(modern)
    (tmp_path / "old" / "state").mkdir(parents=True)
    save_file(old, tmp_path / "old" / "state" / "state.safetensors")
    (tmp_path / "old" / "state" / "state.json").write_text('{"step": 2, "skipped": 0}')
    run(tmp_path / "old", Workers(), config)
    assert_same_bits(state(tmp_path / "old", 4), state(tmp_path / "new", 4))


@pytest.mark.parametrize("damage", ["cut", "values", "deeper", "wider"])
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    run(tmp_path, Workers(), tiny_config(steps=2))
    folder = tmp_path / "checkpoints" / "step-00000002"
    changes = {}
    if damage == "cut":
        (file,) = folder.glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "values":
        (folder / "state.json").write_text("{")
    elif damage == "deeper":
        changes = {"model": {**tiny_config().model, "num_layers": 3}}
    else:
        changes = {"model": {**tiny_config().model, "enc_hidden_dim": 24}, "batch_size": 5}
    with pytest.raises(CheckpointError, match="step-00000002") as raised:
        run(tmp_path, Workers(), tiny_config(**changes))
    assert "\n" not in str(raised.value)
    if damage == "wider":
        assert "(Size mismatch between" in str(raised.value)
        assert "give the settings it was saved with" in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "many"),
        ("step", -1),
        ("step", True),
        ("skipped", None),
        ("batches", [4]),
        ("batches", "8"),
        ("fixed", ["model"]),
        ("processes", {"0": {}}),
        ("processes", [7]),
        ("processes.0.rng", None),
        ("processes.0.rng", {}),
        ("processes.0.rng.python", [3, "words", None]),
        ("processes.0.rng.numpy.state", {"key": "!", "pos": 624}),
        ("processes.0.rng.torch", 5),
        ("processes.0.rng.torch", "AAAA"),
        ("processes.0.data", "here"),
    ],
    ids=str,
)
def test_a_damaged_value_is_named(tmp_path: Path, field: str, value: object) -> None:
    """A file edited by hand, or by a program that meant well."""
    run(tmp_path, Workers(), tiny_config(steps=2))
    file = tmp_path / "checkpoints" / "step-00000002" / "state.json"
    values = place = json.loads(file.read_text())
    *path, last = (int(name) if name.isdigit() else name for name in field.split("."))
    for name in path:
        place = place[name]
    place[last] = value
    file.write_text(json.dumps(values))
    named = field if field.count(".") < 2 else "processes.0"
    with pytest.raises(CheckpointError, match=rf"state\.json.*{named}.*remove") as raised:
        run(tmp_path, Workers(), tiny_config())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", '{"step": 2, "proc', "{}", "null"])
def test_a_torn_file_of_values_is_named(tmp_path: Path, text: str) -> None:
    run(tmp_path, Workers(), tiny_config(steps=2))
    file = tmp_path / "checkpoints" / "step-00000002" / "state.json"
    file.write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json.*remove"):
        run(tmp_path, Workers(), tiny_config())


@pytest.mark.parametrize(("before", "after"), [("muon", "adamw"), ("adamw", "muon")])
def test_another_optimizers_state_is_refused(tmp_path: Path, before: str, after: str) -> None:
    """One would miss its moments at the first step, the other start without and drag them along."""
    run(tmp_path, Workers(), tiny_config(steps=2, optimizer=before))
    with pytest.raises(CheckpointError, match="which this run has no place for"):
        run(tmp_path, Workers(), tiny_config(steps=4, optimizer=after))


def test_a_resumed_run_logs_no_step_twice(tmp_path: Path) -> None:
    """What was logged after the newest state goes, as does a line that a kill cut short."""
    run(tmp_path, Workers(), tiny_config(steps=4, save_every=2))
    log, newest = tmp_path / "log.jsonl", tmp_path / "checkpoints" / "step-00000004"
    first = log.read_text().splitlines()[:2]
    shutil.rmtree(newest)
    with log.open("a") as file:
        file.write('{"step": 5, "sec')
    run(tmp_path, Workers(), tiny_config(steps=4, save_every=2))
    lines = log.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[:2] == first
    assert sorted(path.name for path in tmp_path.glob("log*")) == ["log.jsonl"]


def test_shards_are_counted_and_not_resumed(tmp_path: Path) -> None:
    """A stage drops what was logged after its newest state, and nothing else does."""
    config, log = tiny_config(steps=4), tmp_path / "log.jsonl"
    text = '{"step": 1}\n{"step": 2}\n{"note": "kept"}\n{"step": 3}\n'
    log.write_text(text)
    Journal(tmp_path, 4).close()
    assert log.read_text() == text
    Journal.of_stage(tmp_path, config, 1).close()
    assert log.read_text() == '{"step": 1}\n{"note": "kept"}\n'


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file where a folder should be")
    checkpoints = Checkpoints(tmp_path / "states", Workers())
    with pytest.raises(CheckpointError, match="make room"):
        checkpoints.save(1, {"x": torch.zeros(2)}, {})


def test_global_generators_go_on() -> None:
    kept = generator_states()
    drawn = (torch.rand(3), np.random.rand(3), random.random())
    np.random.standard_normal()
    restore_generators(json.loads(json.dumps(kept)))
    again = (torch.rand(3), np.random.rand(3), random.random())
    assert torch.equal(drawn[0], again[0])
    assert (drawn[1] == again[1]).all()
    assert drawn[2] == again[2]


def test_steps_that_are_not_finite_change_nothing_and_stop_the_run_in_the_end(
    tmp_path: Path,
) -> None:
    made = run(tmp_path / "one", Workers(), tiny_config(steps=1), poisoned=[0])
    fresh = DenoiserTraining.create(made.config, Workers())
    assert made.skipped == 1
    assert_same_bits(made.training.tensors(), fresh.tensors())
    with pytest.raises(NonFiniteError, match="21 steps in a row"):
        run(tmp_path / "many", Workers(), tiny_config(steps=50), poisoned=range(50))


def test_steps_that_are_not_finite_now_and_then_are_only_counted(tmp_path: Path) -> None:
    """Over a stop too: the total is saved."""
    poisoned = [step for step in range(30) if step % 8]
    run(tmp_path, Workers(), tiny_config(steps=16, save_every=16), poisoned=poisoned)
    made = run(tmp_path, Workers(), tiny_config(steps=30, save_every=30), poisoned=poisoned)
    assert made.skipped == len(poisoned) == 26
