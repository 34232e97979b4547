"""The rules that judge pictures of the nano world: GenEval's, checks, requests, intervals."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from lens_core.errors import ParameterError
from lens_core.nano import (
    TASKS,
    Background,
    Detection,
    EvalResult,
    NanoEvalReport,
    atomic_checks,
    dense_caption,
    evaluate,
    nano_eval_prompts,
    observe,
    parse_request,
    render,
)
from lens_core.nano.checks import Observation
from lens_core.nano.evaluation import TaskScore, wilson_interval
from lens_core.nano.geometry import relations
from nano_scenes import scenes


def found(cls: str, x: float, y: float, color: str = "red", score: float = 0.9) -> Detection:
    return Detection(cls, color, (int(x) - 10, int(y) - 10, int(x) + 10, int(y) + 10), 300, score)


@pytest.mark.parametrize(
    ("metadata_", "detections", "correct"),
    [
        ({"include": [{"class": "cup", "count": 1}]}, [found("cup", 50, 50)], True),
        ({"include": [{"class": "cup", "count": 1}]}, [found("cup", 50, 50)] * 3, True),
        ({"include": [{"class": "cup", "count": 2}]}, [found("cup", 50, 50)], False),
        (
            {
                "include": [{"class": "cup", "count": 2}],
                "exclude": [{"class": "cup", "count": 3}],
            },
            [found("cup", 20 * i, 50) for i in range(3)],
            False,
        ),
        (
            {"include": [{"class": "cup", "count": 1, "color": "blue"}]},
            [found("cup", 20, 50, "red", 0.9), found("cup", 80, 50, "blue", 0.8)],
            False,  # only the surest cup is judged
        ),
        (
            {
                "include": [
                    {"class": "car", "count": 1},
                    {"class": "cup", "count": 1, "position": ["left of", 0]},
                ]
            },
            [found("car", 80, 60), found("cup", 40, 60)],
            True,
        ),
        (
            {
                "include": [
                    {"class": "car", "count": 1},
                    {"class": "cup", "count": 1, "position": ["left of", 0]},
                ]
            },
            [found("car", 40, 60), found("cup", 80, 60)],
            False,
        ),
        (
            {
                "include": [
                    {"class": "car", "count": 1},
                    {"class": "cup", "count": 1, "position": ["left of", 0]},
                ]
            },
            [found("cup", 40, 60)],
            False,  # no target
        ),
    ],
)
def test_geneval_rules(
    metadata_: dict[str, Any], detections: list[Detection], correct: bool
) -> None:
    result = evaluate(detections, metadata_)
    assert result.correct is correct
    assert bool(result.reason) is not correct


def test_position_rule_by_hand() -> None:
    # Boxes of 20: 0.1 * 40 = 4 is taken off each offset; the share of the distance decides.
    here = (40.0, 40.0, 60.0, 60.0)
    assert relations((44, 40, 64, 60), here) == []
    assert relations((46, 40, 66, 60), here) == []  # (6 - 4) / 6 < 0.5
    assert relations((50, 40, 70, 60), here) == ["right of"]  # (10 - 4) / 10 > 0.5
    assert relations((70, 10, 90, 30), here) == ["right of", "above"]  # 26 / 42.4 both ways
    assert relations((70, 20, 90, 40), here) == ["right of"]  # 16 / 36.1 < 0.5


def test_report_means_tasks_not_pictures() -> None:
    right, wrong = EvalResult(True, ""), EvalResult(False, "no")
    results = [("single_object", right)] * 3 + [("counting", right), ("counting", wrong)]
    report = NanoEvalReport.from_results(results, {"steps": 20})
    assert report.overall == pytest.approx((1.0 + 0.5) / 2)
    assert NanoEvalReport.model_validate_json(report.model_dump_json()) == report
    assert "| counting | 1 / 2 | 0.500 | 0.095 to 0.905 |" in report.to_markdown()
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    with pytest.raises(ParameterError, match="colour"):
        NanoEvalReport.from_results([("colour", right)])


def test_evaluation_prompts_are_balanced_reproducible_and_geneval_worded() -> None:
    prompts = nano_eval_prompts(seed=0, per_task=5)
    assert Counter(item["tag"] for item in prompts) == dict.fromkeys(TASKS, 5)
    assert prompts == nano_eval_prompts(seed=0, per_task=5)
    assert prompts != nano_eval_prompts(seed=1, per_task=5)
    assert all(item["prompt"].startswith("a photo of ") for item in prompts)
    json.dumps(prompts)


# Checks and requests


def test_checks_pass_on_the_true_picture_and_name_what_is_wrong() -> None:
    rng = np.random.default_rng(2)
    for scene in scenes(60):
        seen = observe(render(scene))
        request = parse_request(dense_caption(scene, rng))
        assert request is not None
        for check in atomic_checks(request):
            assert check.run(seen).passed, (check, check.run(seen))
    request = parse_request("two red apples left of a blue cup on a mint background")
    assert request is not None
    checks = {check.name: check for check in atomic_checks(request)}
    boxes = tuple(found("apple", 20 + 30 * i, 60) for i in range(3))
    seen = Observation((*boxes, found("cup", 20, 20, "green")), Background("cream"))
    answers = {name: check.run(seen) for name, check in checks.items()}
    assert answers["count:apple"].evidence == "found 3 apples, wanted 2"
    assert answers["color:red apple"].passed
    assert answers["color:blue cup"].evidence == "found 1 green cup, wanted 1 blue"
    assert not answers["position:apple left of cup"].passed
    assert answers["background"].evidence == "background is plain cream, wanted plain mint"
    nothing = Observation(())
    assert not any(check.run(nothing).passed for check in checks.values())


@pytest.mark.parametrize(
    ("text", "include"),
    [
        ("a photo of an apple", [("apple", 1, None, None)]),
        ("3 Stars", [("star", 3, None, None)]),
        ("a cup and a car", [("cup", 1, None, None), ("car", 1, None, None)]),
        ("an orange umbrella", [("umbrella", 1, "orange", None)]),
        (
            "two red apples left of a blue cup",
            [("cup", 1, "blue", None), ("apple", 2, "red", ["left of", 0])],
        ),
        (
            "a fish to the right of the house",
            [("house", 1, None, None), ("fish", 1, None, ["right of", 0])],
        ),
        (
            "a heart on top of a tree",
            [("tree", 1, None, None), ("heart", 1, None, ["above", 0])],
        ),
        (
            "a white cup under two stars",
            [("star", 2, None, None), ("cup", 1, "white", ["below", 0])],
        ),
        (
            "a cup on the left and a car on the right",
            [("car", 1, None, None), ("cup", 1, None, ["left of", 0])],
        ),
        (
            "a tree, and a car with two big pink hearts",
            [("tree", 1, None, None), ("car", 1, None, None), ("heart", 2, "pink", None)],
        ),
        (
            "Draw a red apple and a green apple. The red apple is above the green apple.",
            [("apple", 1, "green", None), ("apple", 1, "red", ["above", 0])],
        ),
        (
            "a cup above a car above a star",
            [
                ("star", 1, None, None),
                ("car", 1, None, ["above", 0]),
                ("cup", 1, None, ["above", 1]),
            ],
        ),
        ("a pair of violet mugs", [("cup", 2, "purple", None)]),
    ],
)
def test_requests_are_understood(text: str, include: list[tuple[Any, ...]]) -> None:
    request = parse_request(text)
    assert request is not None
    read = [
        (item["class"], item["count"], item.get("color"), item.get("position"))
        for item in request["include"]
    ]
    assert read == include


def test_requests_outside_the_world_and_open_counts() -> None:
    assert parse_request("a dog chasing the moon") is None
    request = parse_request("some apples")
    assert request is not None
    assert request["include"] == [{"class": "apple", "count": 2}]
    assert "exclude" not in request


def test_overall_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Against simulation: 95 % of intervals hold the true mean of six accuracies."""
    rng, truth = np.random.default_rng(0), np.array([0.05, 0.2, 0.5, 0.7, 0.9, 0.98])
    held = 0
    for _ in range(400):
        scores = tuple(
            TaskScore(task=task, correct=int(rng.binomial(50, p)), total=50)
            for task, p in zip(TASKS, truth, strict=True)
        )
        low, high = NanoEvalReport(tasks=scores).overall_interval
        held += low <= truth.mean() <= high
    assert 0.92 < held / 400 < 0.98


def test_requests_of_any_length_are_read() -> None:
    """Long chains of relations and endless numbers ended in errors of Python's own."""
    chain = parse_request(" left of ".join(["a red cup", "a blue car"] * 600))
    assert chain is not None
    assert len(chain["include"]) == 1200
    assert chain["include"][-1]["position"] == ["left of", 1198]
    many = parse_request("9" * 5000 + " apples")
    assert many is not None
    assert many["include"][0]["count"] > 10**6
    assert atomic_checks(many)[1].kind == "count"
    few = parse_request("0" * 5000 + "3 apples")
    assert few is not None
    assert few["include"] == [{"class": "apple", "count": 3}]
