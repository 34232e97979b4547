"""The nano world: scenes and their pictures, captions, and the detector."""

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lens_core.errors import ParameterError
from lens_core.nano import (
    BACKGROUNDS,
    CLASSES,
    COLORS,
    TASKS,
    TRAINING_SIZES,
    Background,
    Detection,
    EvalResult,
    Scene,
    SceneObject,
    dense_caption,
    detect,
    detect_background,
    evaluate,
    metadata,
    parse_request,
    render,
    sample_scene,
    token_labels,
)
from lens_core.nano.facts import group_relation
from lens_core.nano.scenes import pixel_size
from lens_core.nano.sprites import master_sprite
from nano_scenes import scenes


def contents(items: Any) -> Counter[tuple[str, str]]:
    return Counter((item.cls, item.color) for item in items)


def truth(scene: Scene) -> dict[tuple[str, str], int]:
    return {(group[0].cls, group[0].color): len(group) for group in scene.groups()}


# Scenes


def test_scenes_keep_their_promises() -> None:
    counts = set()
    for scene in scenes(400):
        assert (scene.width, scene.height) in TRAINING_SIZES
        regions = [scene.region(item) for item in scene.objects]
        assert len(set(regions)) == len(regions)
        for index, item in enumerate(scene.objects):
            left, top, right, bottom = item.box
            assert min(left, top) >= 2
            assert right <= scene.width - 2
            assert bottom <= scene.height - 2
            for other in scene.objects[:index]:
                a, b = item.box, other.box
                gaps = (a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
                assert max(gaps) >= 4
        if scene.task == "counting":
            counts.add(len(scene.objects))
            assert len(scene.groups()) == 1
        if scene.task == "position":
            first, second = scene.groups()
            assert group_relation(second, first) is not None
        if scene.task == "color_attr":
            assert len({item.color for item in scene.objects}) == 2
    assert counts == {2, 3, 4}


def test_scene_survives_json() -> None:
    for scene in scenes(50):
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_same_seed_same_everything() -> None:
    def draw(seed: int) -> tuple[Scene, dict[str, Any], bytes]:
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        return scene, metadata(scene, rng), render(scene).tobytes()

    assert draw(11) == draw(11)
    assert draw(11)[0] != draw(12)[0]


@pytest.mark.parametrize("size", [(64, 64), (256, 192)])
def test_other_sizes_work(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for task in (*TASKS, "mixed"):
        scene = sample_scene(rng, task, size)
        assert render(scene).size == size


def test_bad_requests_for_scenes_name_the_rule() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ParameterError, match="multiples of 16"):
        sample_scene(rng, size=(100, 128))
    with pytest.raises(ParameterError, match="single_object"):
        sample_scene(rng, task="colour")
    with pytest.raises(ParameterError, match="both a second colour and a split"):
        Background("mint", "cream")


# Drawing


def test_declared_extent_is_the_drawn_one() -> None:
    for cls in CLASSES:
        drawn = master_sprite(cls, "red").size
        width, height = pixel_size(cls, 1000)
        assert width / height == pytest.approx(drawn[0] / drawn[1], rel=0.01)


def test_labels_agree_with_the_picture() -> None:
    palette = np.array(list(COLORS.values()), float)
    shades = np.array(list(BACKGROUNDS.values()), float)
    hits = []
    for scene in scenes(150):
        classes, colors, background = token_labels(scene)
        assert classes.shape == (scene.height // 16, scene.width // 16)
        assert ((classes > 0) == (colors > 0)).all()
        assert {CLASSES[c - 1] for c in classes[classes > 0]} == {i.cls for i in scene.objects}
        pixels = np.asarray(render(scene), float)
        seam = {"horizontal": scene.height, "vertical": scene.width}.get(
            scene.background.split or "", 0
        )
        for row, column in np.argwhere(classes == 0):
            start = 16 * (row if scene.background.split == "horizontal" else column)
            if start < seam // 2 < start + 16:
                continue  # half and half
            cell = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            median = np.median(cell.reshape(-1, 3), axis=0)
            nearest = int(np.abs(shades - median).sum(axis=1).argmin())
            hits.append(nearest == background[row, column])
        item = scene.objects[0]
        left, top, right, bottom = item.box
        area = pixels[top:bottom, left:right].reshape(-1, 3)
        own = np.abs(area - palette[list(COLORS).index(item.color)]).sum(axis=1) < 6
        assert own.mean() > 0.15
    assert np.mean(hits) > 0.995


# Captions


def test_dense_captions_are_true_complete_and_short() -> None:
    rng = np.random.default_rng(3)
    words: set[str] = set()
    openings: set[str] = set()
    lengths = []
    for scene in scenes(600):
        caption = dense_caption(scene, rng)
        lengths.append(len(caption.split()))
        words.update(re.findall(r"[a-z]+", caption.lower()))
        openings.add(" ".join(caption.split()[:2]))
        understood = parse_request(caption)
        assert understood is not None
        told = {(i["class"], i["color"]): i["count"] for i in understood["include"]}
        assert told == truth(scene)
        assert Background(**understood["background"]) == scene.background
        assert evaluate(exact(scene), understood) == EvalResult(True, "")
        assert sorted(places(caption)) == sorted(scene.region(item) for item in scene.objects)
    assert min(lengths) >= 30
    assert max(lengths) <= 80
    assert 36 <= np.mean(lengths) <= 46
    assert len(words) < 350
    assert len(openings) > 20


def places(caption: str) -> list[str]:
    """Read the region words of a caption, leaving out what is said of the background."""
    text = re.sub(r"(top|bottom|left|right) half", "", caption.lower())
    text = text.replace("with a smooth", "")
    rows = {"upper": "upper", "top": "upper", "lower": "lower", "bottom": "lower"}
    out = []
    pattern = (
        r"\b(?:in|at|on) the (?:(upper|lower|top|bottom|middle) (left|right|middle)"
        r"|(top|bottom)(?: in the middle)?|(left|right)(?! of)|(centre|middle))\b"
    )
    for row, column, edge, side, middle in re.findall(pattern, text):
        if row == "middle":
            out.append(column)
        elif row:
            edge_name = "top" if rows[row] == "upper" else "bottom"
            out.append(edge_name if column == "middle" else f"{rows[row]} {column}")
        else:
            out.append(edge or side or ("centre" if middle else ""))
    return out


def exact(scene: Scene) -> list[Detection]:
    """Return what a perfect detector finds in a scene."""
    return [Detection(item.cls, item.color, item.box, 0, 1.0) for item in scene.objects]


def test_metadata_holds_for_its_scene_and_its_prompt() -> None:
    rng = np.random.default_rng(5)
    for scene in scenes(400):
        data = json.loads(json.dumps(metadata(scene, rng)))
        assert data["tag"] == scene.task
        assert evaluate(exact(scene), data).correct
        understood = parse_request(data["prompt"])
        assert understood is not None
        asked = [(i["class"], i["count"], i.get("color")) for i in data["include"]]
        read = [(i["class"], i["count"], i.get("color")) for i in understood["include"]]
        assert sorted(asked, key=str) == sorted(read, key=str)
        assert evaluate(exact(scene), understood).correct
        if scene.task == "counting":
            (item,) = data["include"]
            assert data["exclude"] == [{"class": item["class"], "count": item["count"] + 1}]
        if scene.task in ("single_object", "two_object", "counting", "position"):
            assert not any("color" in item for item in data["include"])
            assert not any(color in data["prompt"].split() for color in COLORS)


# Detector


def test_detector_is_exact_on_clean_renders() -> None:
    right = [contents(detect(render(s))) == contents(s.objects) for s in scenes(300)]
    assert np.mean(right) >= 0.995


def test_detector_survives_blur_and_noise() -> None:
    rng = np.random.default_rng(0)
    right = []
    for scene in scenes(120, seed=8):
        soft = np.asarray(render(scene).filter(ImageFilter.GaussianBlur(1)), float)
        rough = np.clip(soft + rng.normal(0, 5, soft.shape), 0, 255).astype(np.uint8)
        right.append(contents(detect(Image.fromarray(rough))) == contents(scene.objects))
    assert np.mean(right) >= 0.97


def test_detector_measures_boxes() -> None:
    for scene in scenes(40):
        for item in scene.objects:
            distances = [
                np.abs(np.subtract(d.box, item.box)).max()
                for d in detect(render(scene))
                if d.cls == item.cls
            ]
            assert min(distances) <= 2


def test_detector_finds_nothing_where_nothing_is() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes(20):
        empty = Scene(scene.width, scene.height, scene.background, (), "mixed")
        assert detect(render(empty)) == []
        assert detect_background(render(scene)) == scene.background
    static = rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
    assert detect(Image.fromarray(static)) == []
    half = SceneObject("umbrella", "red", 64, 64, 50, "large")
    picture = render(Scene(128, 128, Background("mint"), (half,), "single_object"))
    picture.paste(BACKGROUNDS["mint"], (64, 0, 128, 128))
    assert detect(picture) == []


def test_touching_objects_are_told_apart() -> None:
    pair = (
        SceneObject("star", "yellow", 40, 64, 36, "medium"),
        SceneObject("heart", "blue", 75, 64, 36, "medium"),
    )
    scene = Scene(128, 128, Background("lavender"), pair, "two_object")
    assert contents(detect(render(scene))) == contents(pair)
