"""Numbers from the histories of runs, and tables of runs: small examples whose answer is plain."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from hc_lafter.analysis import learning
from hc_lafter.suite.plans import tidy

STEPS = [
    [{"epoch": 1, "phase": "a", "task": 4.0}, {"epoch": 1, "phase": "a", "task": 2.0},
     {"epoch": 2, "phase": "b", "task": 1.0}, {"epoch": 2, "phase": "b", "task": 3.0}],
    [{"epoch": 1, "phase": "a", "task": 5.0}],
]  # fmt: skip


def test_halves_are_in_the_classes_shares_and_have_what_cannot_be_halved():
    labels = np.array([0] * 20 + [1] * 10 + [2] + [3])
    found, lone = learning.halves(labels, [0, 1, 2])
    assert lone == [2, 3] and len({tuple(half) for half in found}) == 3
    for half in found:
        assert np.bincount(labels[half]).tolist() == [10, 5, 1, 1] and len(set(half.tolist())) == len(half)
    again = train_test_split(np.arange(30), random_state=1, train_size=0.5, stratify=labels[:30])[0]
    np.testing.assert_array_equal(learning.halves(labels[:30], [1])[0][0], again)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 1], [1, 1], [4, 4, 4, 2, 2, 9]])
def test_halves_of_one_shot(labels):
    labels = np.array(labels)
    found, lone = learning.halves(labels, [0, 1])
    assert lone == [c for c in np.unique(labels) if (labels == c).sum() == 1]
    assert all(set(labels[half]) == set(labels) for half in found)


def test_a_run_that_broke_off_is_filled_up():
    at, values = learning.curves(STEPS, "task")
    assert at.tolist() == [1, 2, 3, 4]
    np.testing.assert_equal(values, [[4, 2, 1, 3], [5, np.nan, np.nan, np.nan]])
    np.testing.assert_equal(learning.by_epoch(STEPS, "task"), [[3, 2], [5, np.nan]])


def test_scatter_is_of_the_last_phase():
    np.testing.assert_allclose(learning.late_scatter(STEPS), [np.std([1, 3], ddof=1), np.nan])


def test_the_smoothed_loss_is_that_of_the_last_steps():
    np.testing.assert_allclose(learning.late_mean(STEPS), [3.0, 5.0])  # a fifth of four steps is one
    np.testing.assert_allclose(learning.late_mean(STEPS, share=0.5), [2.0, 5.0])


@pytest.mark.parametrize(
    ("scores", "taken", "per_pass", "reached", "long"),
    [
        ([0.5, 0.7, 0.8, 0.8], 8, 2, 3, 4),  # a validation after each pass: it is counted
        ([0.5, 0.7, 0.8, 0.8], 8, 4, 2, 2),  # two in a pass: the third comes in the second one
        ([0.5, 0.7, 0.8, 0.8], 40, 4, 8, 10),  # two and a half passes between them: 30 steps are in the eighth
        ([0.9, 0.7, 0.8, 0.8], 8, 2, 1, 4),  # more than in the end is enough
        ([0.1], 3, 2, 2, 2),
    ],
)
def test_passes_are_counted_within_the_last_phase(scores, taken, per_pass, reached, long):
    steps = [{"phase": "a"}] * 5 + [{"phase": "b"}] * taken
    epochs = [{"phase": "a", "accuracy": 0.9}] + [{"phase": "b", "accuracy": score} for score in scores]
    passes, there = learning.passes_of_last_phase([steps], [epochs], per_pass)
    assert passes.tolist() == [reached] and there == long


def test_first_epoch_with_enough():
    assert learning.first_reaching(np.array([[0.5, 0.8, 0.7, 0.8], [0.9, 0.1, 0.2, 0.3]])).tolist() == [1, 0]


def test_phases_span_whole_steps():
    steps = [{"step": i, "phase": "a" if i < 3 else "b"} for i in range(1, 6)]
    assert learning.phase_spans(steps, "step") == {"a": (0.5, 2.5), "b": (2.5, 5.5)}


def test_regimes_get_a_column_and_stay_with_the_opponent_where_they_differ():
    jobs = [("A", "supervised"), ("A", "supervised"), ("B", "no training")]
    against = [("C", "supervised"), ("A", "label-free"), ("zero-shot", "no training")]
    table = tidy(pd.DataFrame({"system": jobs, "minus": against, "value": [1, 2, 3]}))
    assert table["system"].tolist() == ["A", "A", "B"]
    assert table["minus"].tolist() == ["C", "A, label-free", "zero-shot"]
    assert table["regime"].fillna("").tolist() == ["supervised", "supervised", ""]
