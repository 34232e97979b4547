"""Runs a list of benchmark cases."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_core.bench.cases import list_cases
from lens_core.bench.configs import bench_config
from lens_core.bench.results import ResultLog, Row, environment
from lens_core.bench.stages import Stages
from lens_core.bench.timing import synchronise
from lens_core.errors import LensCoreError, ParameterError, first_line

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class BenchSettings:
    """Settings of `run_bench`.

    Attributes:
        config: `nano`, `mid` or `lens`.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto` (bfloat16 on CUDA, otherwise float32), `bfloat16` or `float32`.
        speeds: Names of speed plans.
        kinds: Only these kinds of cases; all if empty.
        paired: Plans to compare with the plain one, alternating calls.
        warmup: Number of unmeasured calls of each case.
        repeats: Number of measured calls.
        minutes: No case starts after this time; None for no limit.

    Raises:
        ParameterError: A value is unknown.
    """

    config: str = "lens"
    device: str = "auto"
    dtype: str = "auto"
    speeds: Sequence[str] = ("plain", "fast", "fp8")
    kinds: Sequence[str] = ()
    paired: Sequence[str] = ()
    warmup: int = 3
    repeats: int = 20
    minutes: float | None = None

    def __post_init__(self) -> None:
        bench_config(self.config)
        if self.dtype not in {"auto", *DTYPES}:
            raise ParameterError(f"dtype {self.dtype!r} must be auto, bfloat16 or float32")
        if self.warmup < 1 or self.repeats < 1:
            raise ParameterError(
                f"warmup {self.warmup} and repeats {self.repeats} must be at least 1"
            )

    @property
    def where(self) -> torch.device:
        """The device.

        Raises:
            ParameterError: This machine has no such device.
        """
        has_cuda = torch.cuda.is_available()
        name = ("cuda" if has_cuda else "cpu") if self.device == "auto" else self.device
        if name not in {"cpu", "cuda"} or (name == "cuda" and not has_cuda):
            raise ParameterError(f"device {self.device!r} is not there; use cpu or auto")
        return torch.device(name)

    @property
    def precision(self) -> torch.dtype:
        """The dtype."""
        if self.dtype == "auto":
            return torch.bfloat16 if self.where.type == "cuda" else torch.float32
        return DTYPES[self.dtype]


def run_bench(
    settings: BenchSettings, folder: Path, on_result: Callable[[Row], None] | None = None
) -> ResultLog:
    """Measure every case without a result in the folder, and write the report.

    A case that cannot run on this machine (no such kernel, a compiler failure, not enough memory)
    is recorded and skipped. After an error that leaves the device unusable the run ends; another
    run with the same folder continues with the next case. The report is written after every case,
    so even a killed run has one.

    Args:
        settings: What to measure.
        folder: Where results are read and written.
        on_result: Called with each new row.

    Raises:
        ParameterError: A setting is unknown, or the folder has results for other settings.
    """
    config, device = bench_config(settings.config), settings.where
    cases = list_cases(config, settings.speeds, settings.kinds, settings.paired)
    log = ResultLog(
        folder,
        {
            "config": settings.config,
            "dtype": str(settings.precision).removeprefix("torch."),
            "warmup": settings.warmup,
            "repeats": settings.repeats,
            "environment": environment(device),
        },
    )
    begin = time.monotonic()
    stages = Stages(config, device, settings.precision, settings.warmup, settings.repeats)
    waiting = [case for case in cases if not log.has(case)]
    while waiting:
        if settings.minutes is not None and time.monotonic() - begin > settings.minutes * 60:
            break
        case = waiting.pop(0)
        try:
            row = log.add(case, stages.measure(case))
        except torch.OutOfMemoryError as error:
            row = log.add(case, None, f"out of memory: {first_line(error)}")
        except LensCoreError as error:
            row = log.add(case, None, str(error))
        except Exception as error:
            # Compilers and kernels may raise any type of exception.
            row = log.add(case, None, f"{type(error).__name__}: {first_line(error)}")
        if on_result is not None:
            on_result(row)
        log.write_report()
        synchronise(device)
    log.left = len(waiting)
    return log
