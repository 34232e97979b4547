"""What a newcomer may do wrong: every mistake ends with a message that names it, and a code."""

import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lens_reasoner import GeneratedImage, GenerationSettings
from lens_sdk.cli import app


@pytest.fixture(scope="module")
def beginners(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Path:
    """A folder with a model, a picture of somebody else's, and files that are none of ours."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("beginners")
    shutil.copytree(nano_folder, folder / "model")
    (folder / "text.txt").write_text("not a picture")
    (folder / "broken.json").write_text("{")
    (folder / "empty").mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    picture = GeneratedImage.from_pil(
        Image.new("RGB", (64, 64)),
        prompt="",
        seed=1,
        settings=GenerationSettings(),
        generator="nobody",
    )
    picture.save(folder / "nobody.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:60])
    (folder / "few.jsonl").write_text('"one"\n"two"\n')
    (folder / "none.jsonl").write_text("\n\n")
    return folder


MISTAKES = [
    ("genrate x", 2, "generate"),
    ("generate", 2, "give either a request or --resume"),
    ("generate x --modle y", 2, "--model"),
    ("generate ' '", 2, "request text is empty"),
    ("create ''", 2, "request text is empty"),
    ("rewrite ''", 2, "request text is empty"),
    ("demo --request ''", 2, "request text is empty"),
    ("generate x --size big", 2, "WIDTHxHEIGHT"),
    ("generate x --extra quality", 2, "NAME=VALUE"),
    ("generate x --size 0x64", 2, "--size"),
    ("generate x --size 9:1@1440", 2, "9:1"),
    ("generate x --aspect-ratio wide", 2, "--aspect-ratio"),
    ("generate x --steps 0", 2, "--steps"),
    ("generate x --steps many", 2, "--steps"),
    ("generate x --n 0", 2, "--n"),
    ("generate x --deadline 0", 2, "--deadline"),
    ("generate x --memory 10gb", 2, "resident"),
    ("generate x --strength 0.5", 2, "are for --image"),
    ("generate x --image missing.png", 1, "missing.png"),
    ("generate x --image text.txt", 1, "text.txt"),
    ("generate x --system-prompt missing.md", 1, "missing.md"),
    ("generate x --model lens-giant", 1, "Choices: lens-nano"),
    ("generate x --model lens", 1, "lens pull lens"),
    ("generate x --model openai", 1, "OPENAI_API_KEY"),
    ("generate x --model server:nowhere", 1, "http://host:8000/v1#MODEL"),
    ("generate x --reasoner openai", 1, "OPENAI_API_KEY"),
    ("generate x --reasoner clever", 1, "openai:MODEL"),
    ("generate x --judge strict", 1, "openai:MODEL"),
    ("generate x --out text.txt/pictures", 1, "text.txt: Not a directory"),
    ("create x --out text.txt", 1, "text.txt: Not a directory"),
    ("generate x --run-dir text.txt", 1, "text.txt"),
    ("create x --runs text.txt", 1, "text.txt"),
    ("create x --base-url nowhere", 1, "http://127.0.0.1:8000"),
    ("generate --resume missing", 1, "missing"),
    ("judge missing.png x", 2, "missing.png"),
    ("judge text.txt x", 1, "text.txt"),
    ("judge cut.png x", 1, "cut.png: The image"),
    ("judge red.png", 2, "give the request too"),
    ("judge red.png x --rubric missing.json", 1, "missing.json"),
    ("judge red.png x --rubric broken.json", 1, "broken.json"),
    ("judge red.png x --min-score 2", 2, "--min-score"),
    ("reproduce missing.png", 1, "missing.png"),
    ("reproduce red.png", 1, "red.png"),
    ("reproduce text.txt", 1, "text.txt cannot be read"),
    ("reproduce nobody.png", 1, "--model"),
    ("reproduce nobody.png --out nobody.png", 2, "another file"),
    ("runs show nothing", 1, "lens runs list"),
    ("runs list --limit 0", 2, "--limit"),
    ("pull nonsense", 1, "lens-turbo"),
    ("pull a/b --endpoint http://127.0.0.1:9", 5, "cannot be reached"),
    ("inspect missing", 1, "missing"),
    ("inspect text.txt", 1, "text.txt"),
    ("convert missing x.gguf --to gguf", 1, "missing"),
    ("convert model/transformer x --to paper", 1, "gguf"),
    ("convert model/transformer x --to single --dtype fp8", 2, "bfloat16"),
    ("eval geneval", 2, "the only benchmark is nano"),
    ("eval nano --prompts long", 2, "dense"),
    ("eval nano --size big", 2, "WIDTHxHEIGHT"),
    ("eval nano --model model --out text.txt", 1, "text.txt"),
    ("optimize", 2, "--requests"),
    ("optimize --requests few.jsonl --out o", 2, "--budget-images 1000"),
    ("optimize --requests missing.jsonl --out o --budget-images 90", 1, "missing.jsonl"),
    ("optimize --requests red.png --out o --budget-images 90", 1, "red.png"),
    ("optimize --requests few.jsonl --out o --budget-images 90", 1, "at least 4"),
    ("optimize --requests none.jsonl --out o --budget-images 90", 1, "no requests in"),
    ("optimize --requests few.jsonl --out text.txt --budget-images 90", 1, "text.txt"),
    ("optimize --resume missing", 1, "missing"),
    ("report missing", 1, "There is no folder missing"),
    ("report text.txt", 1, "There is no folder text.txt"),
    ("report empty", 1, "empty holds neither"),
    ("calibrate missing.json", 2, "missing.json"),
    ("calibrate broken.json", 1, "broken.json"),
    ("data check missing", 1, "missing"),
    ("data shard missing --out s", 1, "missing"),
    ("data shard model --out s --format gif", 2, "webp"),
    ("data encode missing --model model --cache c", 1, "missing"),
    ("train dance", 1, "pretrain"),
    ("train language --config missing", 1, "missing"),
    ("train language --config broken.json", 1, "broken.json"),
    ("train language --set steps", 2, "KEY=VALUE"),
    ("train language --set steps=many", 1, "language: steps 'many': Input should be"),
    ("train memory --set stepz=1", 1, "lora: stepz 1: unknown setting"),
    ("train lora", 2, "--images"),
    ("train lora --config nano --images missing --out r", 1, "missing"),
    ("train plan --gpus 0", 2, "--gpus"),
    ("train plan --gpu abacus", 2, "h200"),
    ("train plan --config missing", 1, "missing"),
    ("train ablation hair", 1, "captions"),
    ("bench --config huge", 1, "huge"),
    ("bench --config nano --only singing --out b", 1, "singing"),
    ("bench --minutes -1", 2, "--minutes"),
    ("memory --size big", 2, "WIDTHxHEIGHT"),
    ("memory --size 64x64 --write missing.md", 1, "missing.md"),
    ("create cup --size 30x30", 1, "size='30x30' is not supported"),
    ("generate cup --size 30x30", 1, "size='30x30' is not supported"),
    ("serve --host 0.0.0.0", 1, "key"),
    ("serve --api-key-file missing", 1, "missing"),
    ("serve --folder text.txt", 1, "text.txt: Not a directory"),
    ("serve --port 99999", 2, "--port"),
    ("config --template --json", 2, "--json"),
]


@pytest.mark.parametrize(("line", "code", "words"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_a_mistake_is_named_and_says_what_to_do(
    beginners: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, words: str
) -> None:
    def load(_: object) -> None:
        raise AssertionError("the model was loaded before the mistake was seen")

    monkeypatch.chdir(beginners)
    monkeypatch.setenv("LENS_MODEL", "model")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(beginners))
    monkeypatch.setenv("HF_HUB_CACHE", str(beginners / "hub"))
    monkeypatch.setattr("lens_sdk.runtime.LensRuntime.load", load)
    before = sorted(beginners.rglob("*"))
    done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code == code, (done.output, done.exception)
    assert done.stdout == ""
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert "Input should be" not in done.stderr or code == 2 or "--set" in line
    assert "pydantic" not in done.stderr
    assert sorted(beginners.rglob("*")) == before, "a mistake leaves nothing behind"


def test_a_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert done.exit_code == 1, (done.output, done.exception)
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Lens on" not in done.stderr


def test_ctrl_c_while_the_command_starts_is_no_traceback() -> None:
    script = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "lens_sdk.cli": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from lens_sdk.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "Interrupted.\n"
