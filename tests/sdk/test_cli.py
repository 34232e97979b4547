"""The `lens` command on a tiny checkpoint, offline and without keys."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lens_reasoner import GeneratedImage
from lens_sdk import read_record
from lens_sdk.cli import app
from lens_sdk.models import package_version

REQUEST = "two red apples left of a blue cup"


@pytest.fixture
def lens(nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Lens":
    monkeypatch.chdir(tmp_path)
    return Lens(nano_folder)


class Lens:
    """Runs the command in this process."""

    def __init__(self, model: Path) -> None:
        self.model = str(model)

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result.stdout, result.stderr

    def generate(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        return self("generate", REQUEST, "--model", self.model, *arguments, code=code)


def test_one_request_becomes_one_judged_picture_in_a_fresh_process(
    nano_folder: Path, tmp_path: Path
) -> None:
    # So detailed that the random encoder is not asked to write.
    request = f"{REQUEST}, the apples on the left side and the cup on the right, " * 2
    command = [sys.executable, "-m", "lens_sdk", "generate", request, "-m", str(nano_folder)]
    done = subprocess.run(
        [*command, "--seed", "5", "--out", "pictures"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "pictures" / "two-red-apples-left-of-a-blue-cup-the-apples-on-5.png"
    assert Image.open(path).size == (48, 64)
    record = read_record(path)
    assert record["request"]["text"] == request
    assert record["verdict"]["judge"] == "nano-detector"
    for shown in (
        "the request is already detailed",
        "Are the red apples left of the blue cup?",
        "criteria, by nano-detector",
        str(path.relative_to(tmp_path)),
        "seed 5",
    ):
        assert shown in done.stdout
    for bar in ("Loading", "Rewriting", "Drawing", "2/2", "Judging"):
        assert bar in done.stderr
    assert "Loading weights" not in done.stderr
    assert "Warning" not in done.stderr


def test_options_reach_the_picture(lens: Lens, tmp_path: Path) -> None:
    stdout, _ = lens.generate(
        *("--size", "64x48", "--seed", "9", "--steps", "3", "--guidance", "1.5", "--json"),
        *("--negative-prompt", "a dog", "--no-reason", "--no-judge", "--out", "a/b.png"),
        *("--extra", "date=2026-01-02"),
    )
    report = json.loads(stdout)
    assert report["path"] == str(Path("a/b.png"))
    assert report["prompt"] == REQUEST
    assert report["rewritten_by"] is None
    assert report["verdict"] is None
    image = GeneratedImage.load(tmp_path / "a" / "b.png")
    assert image.settings.model_dump() == {
        "width": 64,
        "height": 48,
        "num_inference_steps": 3,
        "guidance_scale": 1.5,
        "negative_prompt": "a dog",
        "extra": {"date": "2026-01-02"},
        "dropped": {},
    }
    assert image.seed == 9


def test_an_aspect_ratio_chooses_a_trained_size(lens: Lens) -> None:
    stdout, _ = lens.generate("--aspect-ratio", "5:3", "--no-judge", "--json")
    settings = json.loads(stdout)["settings"]
    assert (settings["width"], settings["height"]) == (160, 96)


def test_the_best_of_several_is_saved_and_all_on_demand(lens: Lens, tmp_path: Path) -> None:
    stdout, _ = lens.generate("--n", "3", "--seed", "2", "--json", "--out", "best.png", "--all")
    report = json.loads(stdout)
    scores = [candidate["score"] for candidate in report["candidates"]]
    assert len(scores) == 3
    assert report["score"] == max(scores)
    paths = [tmp_path / candidate["path"] for candidate in report["candidates"]]
    assert len({path.read_bytes() for path in paths}) == 3
    assert {GeneratedImage.load(path).seed for path in paths} == {2, 3, 4}


def test_pictures_in_a_folder_are_never_overwritten(lens: Lens, tmp_path: Path) -> None:
    for _ in range(2):
        lens.generate("--seed", "1", "--no-judge")
    names = sorted(path.name for path in (tmp_path / "lens-out").iterdir())
    assert names == [
        "two-red-apples-left-of-a-blue-cup-1-2.png",
        "two-red-apples-left-of-a-blue-cup-1.png",
    ]


def test_a_request_beyond_the_world_is_drawn_and_not_scored(lens: Lens) -> None:
    arguments = ("generate", "ein [bold]Drache[/]", "--model", lens.model, "--seed", "1")
    stdout, _ = lens(*arguments)
    assert "not judged" in stdout
    assert "ein [bold]Drache[/]" in stdout
    report = json.loads(lens(*arguments, "--json")[0])
    assert report["score"] is None
    assert report["failures"][0]["stage"] == "rubric"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--size", "50x64"), 1, "multiples of 16"),
        (("--size", "64"), 2, "WIDTHxHEIGHT"),
        (("--size", "64x48", "--aspect-ratio", "4:3"), 2, "give one of them"),
        (("--aspect-ratio", "wide"), 2, "'wide'"),
        (("--guidance", "0.5"), 1, "guidance_scale 0.5"),
        (("--seed", "-1"), 2, "'--seed'"),
        (("--n", "0"), 2, "'--n'"),
        (("--rounds", "0"), 2, "'--rounds'"),
        (("--judge", "claude"), 1, "openai:MODEL"),
        (("--reasoner", "openai:gpt-x"), 1, "OPENAI_API_KEY"),
        (("--model", "lens-giant"), 1, "lens-nano"),
    ],
)
def test_mistakes_end_with_a_message_and_a_code(
    lens: Lens, arguments: tuple[str, ...], code: int, words: str
) -> None:
    stdout, stderr = lens.generate(*arguments, code=code)
    assert words in " ".join(stderr.replace("│", " ").split())
    assert stdout == ""


def test_an_empty_request_is_refused_with_a_reason(lens: Lens) -> None:
    _, stderr = lens("generate", "  ", "--model", lens.model, code=2)
    assert "request text is empty" in stderr


def test_a_large_model_without_a_key_says_what_to_set(lens: Lens, tiny_folder: Path) -> None:
    _, stderr = lens("generate", REQUEST, "--model", str(tiny_folder), code=1)
    assert "OPENAI_API_KEY" in stderr
    assert "--no-reason and --no-judge" in stderr
    lens("generate", REQUEST, "--model", str(tiny_folder), "--no-reason", "--no-judge")


def test_version_and_help(lens: Lens) -> None:
    assert lens("--version")[0] == f"lens-sdk {package_version()}\n"
    help_text, _ = lens("--help")
    for command in ("generate", "demo", "train", "eval"):
        assert command in help_text
    assert not {"torch", "diffusers"} & _loaded_by("from lens_sdk.cli import app; app(['--help'])")


def _loaded_by(code: str) -> set[str]:
    script = f"import sys, atexit; atexit.register(lambda: print(*sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("dance",), 1, "'dance'"),
        (("pretrain", "--out", "empty"), 1, "autoencoder"),
        (("language", "--config", "no-such"), 1, "no-such"),
        (("language", "--set", "steps=-1"), 1, "steps"),
        (("language", "--set", "colour=red"), 1, "colour"),
        (("language", "--set", "steps"), 2, "KEY=VALUE"),
    ],
)
def test_training_mistakes_are_messages(
    lens: Lens, arguments: tuple[str, ...], code: int, words: str
) -> None:
    _, stderr = lens("train", *arguments, code=code)
    assert words in stderr


def test_training_runs_a_stage_and_goes_on(lens: Lens, tmp_path: Path) -> None:
    small = {
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 64,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    settings = {"steps": 2, "batch_size": 3, "log_every": 1, "save_every": 1, "model": small}
    options = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    stdout, _ = lens("train", "autoencoder", "--out", "run", *options)
    assert stdout.strip() == f"Finished: {Path('run/autoencoder')}"
    stdout, _ = lens("train", "autoencoder", "--out", "run", *options, "--json")
    assert json.loads(stdout) == {"stage": "autoencoder", "folder": str(Path("run/autoencoder"))}
    log = (tmp_path / "run" / "autoencoder" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def test_a_recorded_run_is_resumed_and_cached(lens: Lens, tmp_path: Path) -> None:
    run = ("--n", "2", "--rounds", "2", "--seed", "3", "--steps", "1", "--json")
    first = json.loads(
        lens.generate(*run, "--run-dir", "run", "--cache", "cache", "--out", "a.png")[0]
    )
    assert first["stop_reason"] == "max_rounds"
    assert [candidate["round"] for candidate in first["candidates"]] == [0, 0, 1, 1]
    assert len(first["prompts"]) == 2
    path = tmp_path / "run" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]) + lines[-4][:40])
    resume = ("generate", "--resume", "run", "--model", lens.model, "--json", "--out", "b.png")
    again = json.loads(lens(*resume)[0])
    for key in ("prompts", "score", "stop_reason", "seed"):
        assert again[key] == first[key]
    assert (tmp_path / "images").exists() is False
    assert len(list((tmp_path / "run" / "images").iterdir())) == 4
    cached = json.loads(lens.generate(*run, "--cache", "cache", "--out", "c.png")[0])
    assert cached["usage"]["usd"] == 0
    assert cached["timings"]["generate"] < first["timings"]["generate"]
    _, stderr = lens("generate", "--resume", "nothing", "--model", lens.model, code=1)
    assert "does not hold a run" in stderr
    _, stderr = lens.generate("--resume", "run", code=2)
    assert "either a request or --resume" in stderr


def test_limits_end_a_run(lens: Lens) -> None:
    report = json.loads(
        lens.generate("--n", "2", "--rounds", "9", "--max-images", "3", "--steps", "1", "--json")[0]
    )
    assert (report["stop_reason"], len(report["candidates"])) == ("max_images", 3)
    text, _ = lens.generate("--n", "2", "--rounds", "2", "--steps", "1", "--max-cost", "1")
    assert "2, 4 images, 2 prompts · max rounds" in text
    _, stderr = lens.generate("--deadline", "0.000001", code=1)
    assert "before any image was generated: deadline" in stderr
