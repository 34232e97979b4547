"""`lens bench` on a processor, with the smallest models."""

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from typer.testing import CliRunner

from lens_core import ParameterError
from lens_core.bench.cases import DENOISER_PLANS, Case, list_cases
from lens_core.bench.configs import bench_config, random_pipeline
from lens_core.bench.dry_run import dry_run
from lens_core.bench.results import ResultLog
from lens_core.bench.run import BenchSettings, run_bench
from lens_core.bench.stages import Stages
from lens_core.bench.timing import compare, measure, median_interval
from lens_core.blocks import SwiGLU
from lens_core.speed import named_plan
from lens_core.speed.fp8 import fp8_problem
from lens_core.speed.plan import SWITCHES
from lens_sdk.cli import app

QUICK = ["--config", "nano", "--device", "cpu", "--warmup", "1", "--repeats", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run by the command line."""
    found = tmp_path_factory.mktemp("bench") / "results"
    only = [
        word for kind in ("ceiling", "attention", "denoise", "paired") for word in ("--only", kind)
    ]
    arguments = [*QUICK, "--speed", "exact", "--paired", "exact", *only]
    done = CliRunner().invoke(app, ["bench", "--out", str(found), *arguments])
    assert done.exit_code == 0, done.output
    # Nothing is cut where a table is as wide as a terminal that nobody widened.
    assert "…" not in done.stdout
    assert re.search(r"^cond/128/b1/exact +[\d.]+ ", done.stdout, re.MULTILINE)
    assert "  attention/cudnn/128/b1: attention 'cudnn' cannot run here" in done.stdout
    return found


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {row["key"]: row for row in report["results"]}


def test_results_say_what_ran_how_fast_and_what_share_of_the_ceiling(folder: Path) -> None:
    found = rows(folder)
    branch = found["denoise/cond/128/b1/exact"]
    assert len(branch["samples"]) == 2
    assert min(branch["samples"]) <= branch["seconds"] <= branch["p95"] < branch["first"] * 100
    assert branch["notes"]["image_tokens"] == 64
    assert 150 < branch["notes"]["text_tokens"] < 300
    assert branch["tflops"] == pytest.approx(branch["flops"] / branch["seconds"] / 1e12)
    assert branch["share"] == pytest.approx(branch["tflops"] / found["ceiling/b1"]["tflops"])
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in branch["kernels"]
    assert branch["flops"] > found["denoise/uncond/128/b1/exact"]["flops"]
    # Not there on a processor: noted, and the run goes on.
    assert "cannot run here" in found["attention/cudnn/128/b1"]["error"]
    # The decoder's attention is another one: a single head over all 16 x 16 latents.
    decoders = found["attention/decoder torch/128/b1"]
    assert (decoders["notes"]["tokens"], decoders["flops"]) == (256, 4 * 48 * 256**2)
    low, high = found["paired/sample/128/b1/exact"]["comparison"]["interval"]
    assert 0.1 < low <= high < 10


def test_a_run_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lines = (copy / "results.jsonl").read_text(encoding="utf-8").splitlines()
    (copy / "results.jsonl").write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    settings = BenchSettings(
        "nano", device="cpu", speeds=("exact",), kinds=("ceiling", "denoise"), warmup=1, repeats=2
    )
    new: list[str] = []
    run_bench(settings, copy, lambda row: new.append(row["key"]))
    assert new == ["ceiling/b1"]
    # Killed while it wrote: that case is measured again.
    (copy / "results.jsonl").write_text(
        "\n".join(lines[1:]) + "\n" + lines[0][:40], encoding="utf-8"
    )
    late = run_bench(replace(settings, minutes=0.0), copy)
    assert late.left == 1
    assert [row["key"] for row in late.rows] == [json.loads(line)["key"] for line in lines[1:]]
    assert run_bench(settings, copy).left == 0
    assert len((copy / "results.jsonl").read_text(encoding="utf-8").splitlines()) == len(lines)
    other = BenchSettings("nano", device="cpu", kinds=("ceiling",), warmup=1, repeats=3)
    with pytest.raises(ParameterError, match="other repeats"):
        run_bench(other, copy)
    (copy / "results.jsonl").write_text('{"key": \n', encoding="utf-8")
    with pytest.raises(ParameterError, match="damaged"):
        run_bench(settings, copy)


def test_the_full_plan_has_every_measurement() -> None:
    keys = {case.key for case in list_cases(bench_config("lens"), ("plain", "fast"))}
    for speed in ("plain", "fast"):
        for size in (1024, 1440):
            for batch in (1, 4):
                end = f"{size}/b{batch}/{speed}"
                assert {
                    f"denoise/cond/{end}",
                    f"denoise/uncond/{end}",
                    f"decode/{end}",
                    f"generate/lens/{end}",
                    f"generate/lens-turbo/{end}",
                } <= keys
                if batch == 1:
                    assert f"split/lens-turbo/{end}" in keys
        assert f"prompts/lens-turbo/1024/b1/{speed}" in keys
    assert {
        "ceiling/b1",
        "ceiling/fp8/b1",
        "encode/b1",
        "encode/b4",
        "attention/flash/1440/b1",
        "attention/decoder math/1440/b1",
    } <= keys
    every = [case.key for case in list_cases(bench_config("lens"), ("fast",), paired=("all",))]
    for plan in (*SWITCHES, "fp8", "graphs"):
        changes = named_plan(plan)
        assert (f"paired/sample/1024/b1/{plan}" in every) == changes.changes_denoiser
        assert (f"accuracy/1024/b1/{plan}" in every) == changes.changes_denoiser
        assert (f"paired/decode/1440/b1/{plan}" in every) == changes.changes_vae
    # What matters most comes first, should there be ten minutes only.
    assert every.index("generate/lens/1440/b1/fast") < every.index("denoise/cond/1024/b4/fast")
    with pytest.raises(ParameterError, match="choose from"):
        list_cases(bench_config("lens"), ("plain",), kinds=("typo",))
    with pytest.raises(ParameterError, match="'warp'"):
        list_cases(bench_config("lens"), ("warp",))


def test_accuracy_and_the_stages_of_a_picture() -> None:
    config = bench_config("nano")
    stages = Stages(config, torch.device("cpu"), torch.float32, warmup=1, repeats=2)
    exact = stages.measure(Case("accuracy", "", 128, 1, "exact")).accuracy
    assert exact is not None
    assert exact.factor == 1.0
    if fp8_problem(torch.device("cpu"), torch.bfloat16) is None:  # Older torch lacks the product.
        rounded = stages.measure(Case("accuracy", "", 128, 1, "fp8-products")).accuracy
        assert rounded is not None
        assert rounded.plain == exact.plain
        assert 1.2 < rounded.factor < 6
    kernels = stages.measure(Case("decode", "", 128, 1, "plain")).kernels
    assert kernels == ("aten::_scaled_dot_product_flash_attention_for_cpu",)
    lengths: list[int] = []
    hook = stages._pipeline("plain").transformer.register_forward_pre_hook(
        lambda _, __, named: lengths.append(named["encoder_hidden_states"][0].shape[1]),
        with_kwargs=True,
    )
    assert stages.measure(Case("prompts", "lens-turbo", 128, 1, "plain")).timing is not None
    hook.remove()
    assert len(set(lengths)) == len(lengths) // 4 == 4
    found = stages.measure(Case("split", "lens-turbo", 128, 1, "plain"))
    assert [*found.parts] == ["encode", "denoise", "decode", "png"]
    assert found.timing is not None
    assert sum(found.parts.values()) == pytest.approx(found.timing.median, rel=0.5)


def test_every_path_is_gone_through_at_full_size_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(bench_config("lens"), sizes=(1440,), batches=(4,))
    found = dry_run(config, ("plain", "fused-mlp", "fp8-products", "fused-qk", "graphs"))
    paths = {one.key: one for one in found}
    assert [one.error for one in paths.values()] == [None] * 10
    plain, fp8 = paths["plain/cond/1440/b4"], paths["fp8-products/cond/1440/b4"]
    assert plain.weights == 2 * 4_104_225_152
    # The image's queries, keys, values, output and the MLP's first two, with scales for rows.
    rounded = 48 * (1536 * (4 * 1536 + 2 * 4096) + 4 * (4 * 1536 + 2 * 4096))
    assert fp8.weights - plain.weights == rounded
    assert paths["fused-mlp/cond/1440/b4"].weights == plain.weights
    assert plain.flops > paths["plain/uncond/1440/b4"].flops > 4 * 41e12
    done = CliRunner().invoke(app, ["bench", "--check", "--config", "nano", "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)) == 2 * len(DENOISER_PLANS)

    def on_the_host(mlp: SwiGLU, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mlp.w1(x) + torch.zeros(mlp.w1.out_features), mlp.w3(x)

    monkeypatch.setattr("lens_core.blocks.project_apart", on_the_host)
    wrong = list(dry_run(bench_config("nano"), ("plain",)))
    assert all("meta" in str(one.error) for one in wrong)


def test_unknown_settings_are_told_without_a_traceback(tmp_path: Path) -> None:
    mistakes = ((1, "--config", "huge"), (2, "--dtype", "float16"), (2, "--device", "tpu"))
    for code, *wrong in mistakes:
        done = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "x"), *wrong])
        assert done.exit_code == code
        assert wrong[1] in done.output
    assert not (tmp_path / "x" / "results.jsonl").exists()


def test_the_models_have_the_released_sizes_and_finite_values() -> None:
    pipeline = random_pipeline(bench_config("nano"), torch.device("cpu"), torch.bfloat16)
    assert pipeline.text_encoder.is_packed
    assert pipeline.vae.bn.running_var.dtype == torch.float32
    picture = pipeline(
        "a cat", seed=1, num_inference_steps=1, height=32, width=32, output_type="np"
    )
    assert picture.images.std() > 0
    with torch.device("meta"):
        from diffusers import AutoencoderKLFlux2

        vae = AutoencoderKLFlux2(**bench_config("lens").vae)
    from lens_core.bench.flops import decoder_flops

    # 10.47e12, counted by torch on the released autoencoder.
    assert decoder_flops(vae, 1024 * 1024) == pytest.approx(10.47e12, rel=2e-3)


def test_comparisons_tell_the_slower_path() -> None:
    left, right = torch.randn(64, 64), torch.randn(64, 64)

    def once() -> None:
        for _ in range(20):
            left @ right

    def thrice() -> None:
        for _ in range(3):
            once()

    found = compare(once, thrice, torch.device("cpu"), pairs=15)
    assert found.clock == "processor"
    assert found.interval[0] <= found.ratio <= found.interval[1]
    assert found.ratio > 1.5
    assert median_interval([2.0] * 5) == (2.0, 2.0)
    timing = measure(once, torch.device("cpu"), warmup=1, repeats=4)
    assert len(timing.samples) == 4
    assert timing.clock == "host"


def test_the_first_call_does_not_say_how_long_the_others_take() -> None:
    calls: list[None] = []

    def slow_at_first() -> None:
        time.sleep(0.0 if calls else 0.3)
        calls.append(None)

    with patch("lens_core.bench.timing.PATIENCE", 1.0):
        timing = measure(slow_at_first, torch.device("cpu"), warmup=1, repeats=20)
    assert (timing.first > 0.3, len(timing.samples)) == (True, 20)


def test_a_compiler_that_fails_ends_one_case_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_case = Stages.measure

    def failing(self: Stages, case: Case) -> Any:
        if case.speed == "fast":
            raise RuntimeError("C++ compile error\nand its whole output")
        return measure_case(self, case)

    monkeypatch.setattr(Stages, "measure", failing)
    settings = BenchSettings("nano", "cpu", "float32", ("fast", "plain"), ("denoise",), (), 1, 1)
    log = run_bench(settings, tmp_path)
    errors = {row["key"]: row["error"] for row in log.rows if row.get("error")}
    assert set(errors.values()) == {"RuntimeError: C++ compile error"}
    assert all(key.endswith("/fast") for key in errors)
    assert len(errors) < len(log.rows)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ParameterError, match="is damaged"):
        run_bench(settings, tmp_path)


def test_a_failed_case_is_kept_as_such(tmp_path: Path) -> None:
    case = list_cases(bench_config("nano"), ("plain",), kinds=("decode",))[0]
    log = ResultLog(tmp_path, {"config": "nano"})
    log.add(case, None, "out of memory")
    assert ResultLog(tmp_path, {"config": "nano"}).has(case)
    assert rows(log.write_report().parent)[case.key]["error"] == "out of memory"
