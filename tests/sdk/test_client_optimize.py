"""`lens.optimize` on a tiny nano checkpoint."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lens_reasoner import LoopConfigError, PromptSection, SystemPrompt
from lens_sdk import Lens, Settings
from lens_sdk.errors import UnknownPartError

REQUESTS = [
    f"{number} {colour} {kind}"
    for number in ("two", "three")
    for colour in ("red", "blue")
    for kind in ("cups", "apples", "trees", "cats")
]
TINY = {"width": 32, "height": 32, "num_inference_steps": 1}


def test_a_study_is_run_and_its_folder_goes_on(nano_folder: Path, tmp_path: Path) -> None:
    own = SystemPrompt(
        name="own", version="1", sections=(PromptSection(name="Task", text="Draw."),)
    )
    own.save(tmp_path / "own.json")
    settings = Settings(system_prompt=tmp_path / "own.json")
    lens = Lens(str(nano_folder), base_url="", folder=None, settings=settings)
    folder, told = tmp_path / "study", []
    result = lens.optimize(
        REQUESTS,
        budget={"images": 40},
        folder=folder,
        defaults=TINY,
        on_progress=told.append,
        test_pictures=1,
    )
    assert told
    assert (folder / "prompt.json").is_file()
    assert SystemPrompt.load(folder / "seed.json") == own
    kept = (folder / "calls.jsonl").read_bytes()
    assert 0 < kept.count(b'{"key": "generate:') <= 40
    again = lens.optimize(REQUESTS, budget={"images": 40}, folder=folder)
    assert again.claim == result.claim
    assert (folder / "calls.jsonl").read_bytes() == kept


def test_what_cannot_be_studied_is_told(nano_folder: Path, tmp_path: Path) -> None:
    budget = {"images": 40}
    with pytest.raises(LoopConfigError, match="uses a server"):
        Lens(base_url="http://127.0.0.1:9").optimize(REQUESTS, budget=budget, folder=tmp_path)
    lens = Lens(str(nano_folder), base_url="", judge=None, folder=None)
    with pytest.raises(LoopConfigError, match="judge of this client"):
        lens.optimize(REQUESTS, budget=budget, folder=tmp_path)
    lens = Lens(str(nano_folder), base_url="", folder=None)
    with pytest.raises(ValidationError, match="wish"):
        lens.optimize(REQUESTS, budget=budget, folder=tmp_path, wish=1)
    with pytest.raises(UnknownPartError, match="luck"):
        lens.optimize(REQUESTS, budget=budget, folder=tmp_path, strategy="luck")
    assert list(tmp_path.iterdir()) == []
