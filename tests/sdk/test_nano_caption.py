"""Reading dense captions back: true ones pass, every kind of mistake is found."""

import random

import numpy as np
import pytest

from lens_core.nano import brief_caption, dense_caption, sample_scene
from lens_sdk.nano_caption import read_caption
from lens_sdk.nano_faithful import Faithfulness
from lens_sdk.nano_words import foreign_words

REQUEST = "two red apples left of a blue cup"
CAPTION = (
    "The picture shows two small red apples and a large blue cup. The apples are placed one in the "
    "upper left and one on the left side. The cup is on the right. The apples are to the left of "
    "the blue cup. The background is plain mint."
)


def unfaithful(caption: str, request: str) -> str:
    return Faithfulness(request).fault(caption)


def test_true_captions_of_random_scenes_pass() -> None:
    rng = np.random.default_rng(5)
    faults = []
    for _ in range(400):
        scene = sample_scene(rng)
        caption, brief = dense_caption(scene, rng), brief_caption(scene, rng)
        faults.append(unfaithful(caption, brief))
        groups = read_caption(caption).groups
        assert {cls: group.count for cls, group in groups.items()} == {
            members[0].cls: len(members) for members in scene.groups()
        }
    # Relations that only just hold are not clear from thirds of the picture.
    assert sum(map(bool, faults)) <= 8, [fault for fault in faults if fault]


def test_captions_of_other_scenes_fail() -> None:
    rng = np.random.default_rng(6)
    passed = 0
    for _ in range(300):
        brief = brief_caption(sample_scene(rng, "color_attr"), rng)
        passed += not unfaithful(dense_caption(sample_scene(rng, "color_attr"), rng), brief)
    assert passed == 0


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("two small red apples", "three small red apples", "3 instead of 2 of apple"),
        ("two small red apples", "two small green apples", "apple is green instead of red"),
        ("cup", "car", "no cup"),
        (" and a large blue cup", ", a white star and a large blue cup", "star was not asked for"),
        ("one in the upper left and", "", "1 places for 2 of apple"),
        ("one in the upper left", "one on the left", "two things in one place"),
        ("cup is on the right", "cup is at the bottom left", "apple is not left of cup"),
        ("to the left of", "right of", "apple cannot be right of cup where they are"),
        ("the blue cup.", "the red cup.", "cup changes its colour or number"),
        ("The cup is", "A cup is", "cup is introduced twice"),
        (" The cup is on the right.", "", "no place for cup"),
        ("plain mint", "mint in the top half and mint in the bottom half", "one colour"),
    ],
)
def test_each_kind_of_mistake_is_found(old: str, new: str, fault: str) -> None:
    assert unfaithful(CAPTION, REQUEST) == ""
    assert old in CAPTION
    assert unfaithful(CAPTION.replace(old, new), REQUEST).endswith(fault)


@pytest.mark.parametrize(
    ("request_text", "fault"),
    [
        ("two big red apples left of a blue cup", "apple is small instead of large"),
        ("two apples, and a cup in the lower left", "cup is not where it was asked for"),
        ("two apples and a cup on a grey background", "another background"),
        ("a red apple and a green apple", "one kind of thing in several colours"),
        ("a cup on the right and some apples", ""),
    ],
)
def test_what_the_request_says_besides_is_kept(request_text: str, fault: str) -> None:
    assert unfaithful(CAPTION, request_text) == fault


def test_a_good_start_ends_before_the_first_mistake() -> None:
    check = Faithfulness(REQUEST)
    sentences = CAPTION.split(". ")
    assert check.good_start(CAPTION) == CAPTION
    assert check.good_start(CAPTION.replace("the blue cup.", "the red cup.")) == (
        ". ".join(sentences[:3]) + "."
    )
    assert check.good_start(CAPTION.replace("two small red", "two small blue")) == ""
    assert check.good_start(CAPTION[:-8]) == ". ".join(sentences[:4]) + "."
    # The cup can no longer be right of apples that reach the right edge.
    edge = "There are two small red apples in the upper right and on the right."
    assert check.good_start(edge) == ""


def test_the_first_sentence_names_all_and_can_stand() -> None:
    rng = np.random.default_rng(8)
    for _ in range(100):
        brief = brief_caption(sample_scene(rng), rng)
        check = Faithfulness(brief)
        sentence = check.first_sentence(random.Random(1))
        assert check.good_start(sentence) == sentence
        assert check.fault(sentence).startswith("no place")
    assert Faithfulness("a big red apple and two cups").first_sentence(random.Random(2)) == (
        "The picture shows a large red apple and two medium red cups."
    )


def test_requests_beyond_the_world_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="dragon"):
        Faithfulness("a dragon")


def test_gibberish_is_no_caption() -> None:
    assert unfaithful("", REQUEST)
    assert unfaithful("apples apples left of cup blue red", REQUEST)


def test_words_beyond_the_world_are_named_once_in_order() -> None:
    assert foreign_words("A dragon rides two red apples; the dragon's café is turquoise") == [
        "dragon",
        "rides",
        "dragon's",
        "café",
        "turquoise",
    ]
    rng = np.random.default_rng(7)
    for _ in range(200):
        scene = sample_scene(rng)
        assert foreign_words(f"{brief_caption(scene, rng)} {dense_caption(scene, rng)}") == []
