"""Judges held against people's labels."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_reasoner import (
    Agreement,
    CalibrationError,
    CalibrationReport,
    Criterion,
    CriterionVerdict,
    HumanLabel,
    Rate,
    Rubric,
    TrustRule,
    Verdict,
    calibrate,
    load_labels,
)

RUBRIC = Rubric(
    request="two cups",
    criteria=(
        Criterion(name="cups", kind="count", question="Two?"),
        Criterion(name="cup", kind="object", question="A cup?"),
    ),
)


def _picture(number: int) -> str:
    return f"{number:02d}".ljust(64, "f")


def _judged(rows, judge="j"):
    """A verdict for each row of answers to "cups" and "cup"."""
    return [
        (
            Verdict(
                image_sha256=_picture(number),
                verdicts=tuple(
                    CriterionVerdict(criterion=name, answer=answer)
                    for name, answer in zip(("cups", "cup"), row, strict=True)
                ),
                judge=judge,
            ),
            RUBRIC,
        )
        for number, row in enumerate(rows)
    ]


def _labels(rows, annotator=""):
    return [
        HumanLabel(image=_picture(number), criterion=name, label=label, annotator=annotator)
        for number, row in enumerate(rows)
        for name, label in zip(("cups", "cup"), row, strict=True)
    ]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # By hand from Wilson's formula with z = 1.959964.
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_intervals(hits, total, low, high) -> None:
    interval = Rate(hits=hits, total=total).interval
    assert interval == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(0, 500), st.integers(1, 500))
def test_an_interval_holds_its_share(hits, more) -> None:
    rate = Rate(hits=hits, total=hits + more)
    low, high = rate.interval
    assert 0 <= low <= rate.value <= high <= 1


def test_nothing_counted_is_no_rate() -> None:
    empty = Rate(hits=0, total=0)
    assert (empty.value, empty.interval, str(empty)) == (None, None, "-")
    report = calibrate([], [])
    assert report.overall.labels == 0
    assert "Nothing is distrusted." in report.markdown()


def test_counts_and_rates_by_hand() -> None:
    people = [("yes", "yes")] * 4 + [("no", "yes")] * 3 + [("yes", "no")] * 3
    judge = [
        *[("yes", "yes")] * 3,
        ("no", "yes"),
        *[("yes", "yes")] * 2,
        ("no", "cannot_tell"),
        *[("yes", "no")] * 2,
        ("cannot_tell", "yes"),
    ]
    report = calibrate(_labels(people), _judged(judge))
    count = next(group for group in report.kinds if group.group == "count")
    assert count == Agreement(
        group="count", true_yes=5, false_no=1, true_no=1, false_yes=2, undecided=1
    )
    assert count.labels == 10
    assert (count.answered.hits, count.answered.total) == (6, 9)
    assert (count.true_positive_rate.hits, count.true_positive_rate.total) == (5, 6)
    assert (count.true_negative_rate.hits, count.true_negative_rate.total) == (1, 3)
    thing = next(group for group in report.kinds if group.group == "object")
    assert (thing.true_yes, thing.true_no, thing.false_yes, thing.undecided) == (6, 2, 1, 1)
    assert report.overall.labels == 20
    assert report.overall.true_yes == 11
    assert [group.group for group in report.criteria] == ["two cups: cup", "two cups: cups"]
    assert report.judges == ("j",)
    # (0.9 + 1/3 - 1) / (5/6 + 1/3 - 1) is 1.4, and a share is at most 1.
    assert count.corrected_rate(0.9) == 1
    assert count.corrected_rate(0.75) == pytest.approx((0.75 + 1 / 3 - 1) / (1 / 6))
    assert Agreement(group="x", true_yes=1, false_yes=1).corrected_rate(0.5) is None


def test_the_rule_distrusts_what_it_says() -> None:
    rule = TrustRule()
    good = Agreement(group="g", true_yes=18, false_no=2, true_no=16, false_yes=4)
    assert rule.reasons(good) == ()
    says_yes = Agreement(group="g", true_yes=90, false_no=0, true_no=3, false_yes=7)
    (reason,) = rule.reasons(says_yes)
    assert reason == "true yes 1.00 + true no 0.30 < 1.4"
    wrong = Agreement(group="g", true_yes=10, false_no=15)
    (reason,) = rule.reasons(wrong)
    assert reason == "agreement at most 0.59 < 0.8"
    silent = Agreement(group="g", true_yes=9, undecided=10)
    assert rule.reasons(silent) == ("undecided 10 of 19",)
    few = Agreement(group="g", false_yes=9)
    assert rule.reasons(few) == ()
    assert rule.model_copy(update={"min_labels": 9}).reasons(few)


def test_distrusted_kinds_and_criteria_are_listed() -> None:
    people = [("no", "yes"), ("yes", "no")] * 10
    judge = [("yes", "yes"), ("yes", "no")] * 10
    report = calibrate(_labels(people), _judged(judge))
    assert [d.group for d in report.distrusted] == ["count", "two cups: cups"]
    page = report.markdown()
    assert "| count | 0.50 [0.30, 0.70] (10/20) | 1.00 [0.72, 1.00] (10/10) |" in page
    assert "- count: true yes 1.00 + true no 0.00 < 1.4; agreement at most 0.70 < 0.8" in page
    assert str(report.rule) in page


def test_people_are_decided_by_majority() -> None:
    labels = [
        *_labels([("yes", "yes")], "a"),
        *_labels([("no", "no")], "b"),
        *_labels([("no", "cannot_tell")], "c"),
        HumanLabel(image=_picture(7), criterion="cup", label="yes"),
        HumanLabel(image=_picture(0), criterion="spoon", label="yes"),
    ]
    report = calibrate(labels, _judged([("no", "yes")]))
    assert (report.overall.true_no, report.overall.labels) == (1, 1)
    assert (report.unmatched, report.unclear) == (2, 1)


def test_the_beginning_of_a_hash_will_do_if_it_is_clear() -> None:
    judged = _judged([("yes", "yes")] * 11)
    label = HumanLabel(image="03f", criterion="cup", label="yes")
    assert calibrate([label], judged).overall.true_yes == 1
    with pytest.raises(CalibrationError, match="prefix of the hashes of 10"):
        calibrate([label.model_copy(update={"image": "0"})], judged)


def test_one_judge_at_a_time() -> None:
    twice = _judged([("yes", "yes")]) + _judged([("no", "no")], judge="k")
    with pytest.raises(CalibrationError, match="judged twice"):
        calibrate([], twice)


def test_labels_come_from_tables(tmp_path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufeffSHA256,criterion,label,annotator,note\n"
        'AB12,"cups, two",Yes,ann,fine\n'
        "ab12,cup,0,,\n"
        "ab12,cup,?,bob,\n"
        "ab12,mood,,bob,\n",
        encoding="utf-8",
    )
    assert load_labels(path) == (
        HumanLabel(image="ab12", criterion="cups, two", label="yes", annotator="ann"),
        HumanLabel(image="ab12", criterion="cup", label="no"),
        HumanLabel(image="ab12", criterion="cup", label="cannot_tell", annotator="bob"),
    )


def test_labels_come_from_the_report_page(tmp_path) -> None:
    rows = [
        {"image": "ab", "criterion": "cup", "label": True},
        {"image": "ab", "criterion": "cups", "answer": "no"},
        {"image": "ab", "criterion": "mood", "label": None},
    ]
    for data in (rows, {"schema": 1, "labels": rows}):
        (tmp_path / "l.json").write_text(json.dumps(data))
        labels = load_labels(tmp_path / "l.json")
        assert [(label.criterion, label.label) for label in labels] == [
            ("cup", "yes"),
            ("cups", "no"),
        ]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("l.csv", "image,criterion\na,b\n", "no column 'answer'"),
        ("l.csv", "image,criterion,label\na,b,maybe\n", "label 1: 'maybe'"),
        ("l.csv", "image,criterion,label\na,b,yes\n,b,yes\n", "label 2 has no image"),
        ("l.json", "{", "not JSON"),
        ("l.json", '{"rows": []}', "does not hold a list"),
        ("l.json", "[1]", "label 1 is not an object"),
    ],
)
def test_files_that_are_no_labels_say_where(tmp_path, name, content, complaint) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError, match=complaint):
        load_labels(tmp_path / name)


def test_reports_are_files(tmp_path) -> None:
    report = calibrate(_labels([("yes", "no")]), _judged([("yes", "yes")]))
    path = report.save(tmp_path / "deep" / "report.json")
    assert CalibrationReport.model_validate_json(path.read_text()) == report
    assert report.save(tmp_path / "report.md").read_text() == report.markdown()
    with pytest.raises(CalibrationError, match="neither"):
        report.save(tmp_path / "report.txt")
