"""Post-training on two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from lens_core.training import run_stage
from tiny_components import tiny_pipeline
from tiny_stages import DISTILL, RL, write_shard

TESTS = Path(__file__).parents[1]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Pictures, rewards and gradients are shared; weights agree up to the order of sums."""
    tiny_pipeline().save_pretrained(tmp_path / "start")
    start = {"start": str(tmp_path / "start"), "steps": "2", "sample_every": "0"}
    stages = {"rl": {**RL, **start}, "distill": {**DISTILL, "steps": "1"}}
    stages["distill"] |= {"start": str(tmp_path / "start")}
    for name in ("one", "two"):
        write_shard(tmp_path / name / "shards")
    command = [sys.executable, "-m", "tiny_stages", str(tmp_path / "two"), json.dumps(stages)]
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    environment = {**os.environ, **address, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**environment, "RANK": str(rank)}
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    for stage, overrides in stages.items():
        run_stage(stage, "nano", tmp_path / "one", overrides)
        alone, together = (
            load_file(tmp_path / name / stage / "state" / "state.safetensors")
            for name in ("one", "two")
        )
        assert alone.keys() == together.keys()
        for name in (name for name in alone if "optimizer" not in name):
            # Adam turns rounding of tiny gradients into a small share of a whole step.
            step = 2 * float(overrides["learning_rate"])
            torch.testing.assert_close(
                together[name], alone[name], atol=0.05 * step, rtol=1e-4, msg=name
            )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
