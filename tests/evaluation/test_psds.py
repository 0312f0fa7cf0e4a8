import numpy as np
import pytest

from tacit.evaluation.event_scores import Event
from tacit.evaluation.psds import SCENARIOS, Criteria, merged, psds, psds_counts, psds_of, thresholds

HALVES = Criteria(dtc=0.5, gtc=0.5, cttc=0.5, alpha_ct=0.5, alpha_st=1.0)


def counts(said, true, criteria=HALVES, frames=20):
    """Of detections as (first frame, one after the last, class) in frames of half a second, at one threshold."""
    scores = np.zeros((frames, 2))
    for start, stop, label in said:
        scores[start:stop, label] = 1.0
    return [part[0].tolist() for part in psds_counts(scores, 0.5, true, criteria, np.array([0.5]))]


@pytest.mark.parametrize(
    ("start", "stop", "hits", "false"),
    [
        (4, 8, 1, 0),  # the event itself
        (6, 8, 1, 0),  # half of it
        (7, 8, 0, 0),  # less of it, and yet not false
        (0, 8, 1, 0),  # the half of what is said is right
        (0, 7, 0, 1),
        (7, 9, 0, 0),
        (7, 10, 0, 1),
        (10, 12, 0, 1),
    ],
)
def test_shares_of_detections_and_of_events(start, stop, hits, false):
    assert counts([(start, stop, 0)], [Event(2.0, 4.0, 0)])[:2] == [[hits, 0], [false, 0]]


def test_detections_and_events_are_taken_together():
    two = [Event(1.0, 2.0, 0), Event(3.0, 4.0, 0)]
    assert counts([(2, 8, 0)], two)[:2] == [[2, 0], [0, 0]]  # one detection finds both, two thirds of it are right
    long = [Event(0.0, 8.0, 0)]
    assert counts([(0, 4, 0), (6, 10, 0)], long)[:2] == [[1, 0], [0, 0]]  # each has a quarter, both have half
    assert counts([(0, 4, 0), (14, 20, 0)], long)[:2] == [[0, 0], [1, 0]]  # what is false covers nothing
    assert counts([], long)[:2] == [[0, 0], [0, 0]]
    assert counts([(0, 4, 0)], [])[:2] == [[0, 0], [1, 0]]


def test_what_is_false_may_be_taken_for_another_class():
    true = [Event(0.0, 2.0, 1), Event(5.0, 6.0, 0)]
    hits, false, crossed = counts([(2, 6, 0)], true)
    assert (hits, false, crossed) == ([0, 0], [1, 0], [[0, 1], [0, 0]])
    assert counts([(2, 7, 0)], true)[1:] == [[1, 0], [[0, 0], [0, 0]]]  # two fifths of it are too little
    lenient = HALVES._replace(cttc=0.3)
    assert counts([(2, 7, 0)], true, lenient)[2] == [[0, 1], [0, 0]]
    assert counts([(7, 12, 0)], true, lenient)[1:] == [[1, 0], [[0, 0], [0, 0]]]  # two fifths of it are of its own
    both = [Event(0.0, 2.0, 1), Event(0.0, 2.0, 0)]
    assert counts([(0, 4, 0)], both) == [[1, 0], [0, 0], [[0, 0], [0, 0]]]  # it is right, so it is none of the other's


def test_each_threshold_has_its_detections():
    scores = np.array([0.1, 0.6, 0.9, 0.6, 0.1, 0.6, 0.1])[:, None]
    hits, false, _ = psds_counts(scores, 1.0, [Event(2.0, 3.0, 0)], HALVES, np.array([0.05, 0.5, 0.8, 0.95]))
    assert hits[:, 0].tolist() == [0, 0, 1, 0]
    assert false[:, 0].tolist() == [1, 2, 0, 0]


def test_events_of_a_class_that_overlap_are_one():
    events = [Event(2.0, 3.0, 0), Event(0.0, 5.0, 0), Event(4.0, 6.0, 0), Event(6.0, 7.0, 0), Event(1.0, 3.0, 1)]
    assert merged(events) == [Event(0.0, 6.0, 0), Event(6.0, 7.0, 0), Event(1.0, 3.0, 1)]


def test_the_area_under_the_staircases():
    hits, false = np.array([[5, 0], [10, 2], [9, 3], [10, 4]]), np.array([[0, 0], [50, 10], [60, 60], [70, 120]])
    nothing, there, lasting = np.zeros((4, 2, 2)), np.array([10.0, 4.0]), np.array([900.0, 1800.0])
    # 0.5 from 0 on and 1 from 50; nothing, 0.5 from 10 on and 0.75 from 60; what is beyond 100 an hour is not seen.
    value, each = psds(hits, false, nothing, there, lasting, 3600.0, HALVES)
    np.testing.assert_allclose(each, [0.75, 0.55])
    assert value == pytest.approx(0.55)  # of two the mean less the spread is the smaller one
    assert psds(hits, false, nothing, there, lasting, 3600.0, HALVES._replace(alpha_st=0.0))[0] == pytest.approx(0.65)
    # Twice the hours are half the rate: 0.5 and then 1 from 25 on; 0.5 from 5, 0.75 from 30 and 1 from 60.
    np.testing.assert_allclose(psds(hits, false, nothing, there, lasting, 7200.0, HALVES)[1], [0.875, 0.75])
    # Ten taken for the second class in its half hour are 20 an hour, of which half is added to the 50.
    crossed = nothing.copy()
    crossed[1, 0, 1] = 10
    np.testing.assert_allclose(psds(hits, false, crossed, there, lasting, 3600.0, HALVES)[1], [0.7, 0.55])


def test_classes_that_are_not_there_are_left_out():
    hits, false = np.array([[2, 0, 1]]), np.array([[0, 30, 0]])
    value, each = psds(hits, false, np.ones((1, 3, 3)), np.array([2.0, 0, 1]), np.array([9.0, 0, 9]), 3600.0, HALVES)
    assert np.isnan(each).tolist() == [False, True, False]
    assert value == 0.0  # 1 / 9 s is 400 an hour
    value, each = psds(hits, false, np.ones((1, 3, 3)), np.array([2.0, 0, 0]), np.array([9.0, 0, 0]), 3600.0, HALVES)
    assert (value, each[0]) == (1.0, 1.0)  # and there is no other class
    assert np.isnan(psds(hits, false, np.ones((1, 3, 3)), np.zeros(3), np.zeros(3), 3600.0, HALVES)[0])


def recordings(count=6, frame=0.04):
    """Scores [250, 3] and events of recordings of 10 s, from sines alone, so that they are the same everywhere."""
    middle = (np.arange(250) + 0.5) * frame
    for i in range(count):
        events, columns = [], []
        for c in range(3):
            onset = 0.3137 + (1.7 * i + 2.3 * c) % 2.9
            while onset < 7 and (i + c) % 4:
                offset = onset + 0.4 + (0.77 * i + 1.31 * c + onset) % 1.9
                events.append(Event(round(onset, 4), round(offset, 4), c))
                onset = offset + 0.5 + (1.13 * i + offset) % 2.1
        for c in range(3):
            there = np.zeros(250)
            for a, b, label in events:
                there += (1.2 if label == c else 0.8 / (1 + abs(label - c))) * ((middle >= a) & (middle < b))
            wave = np.sin((3 + c) * middle + i) + np.sin(7.3 * middle - 2 * i + c) * np.sin(0.9 * middle * (c + 1) + i)
            columns.append(1 / (1 + np.exp(2.4 - 3 * there - 1.1 * wave)))
        yield np.stack(columns, 1), events


def over_recordings(name, cuts=None):
    scores, events = zip(*recordings(), strict=True)
    cuts = np.unique(np.concatenate(scores)) if cuts is None else cuts
    return psds_of(scores, 0.04, events, [10.0] * len(scores), SCENARIOS[name], cuts)


def test_as_psds_eval_from_fifty_thresholds():
    # psds_eval 0.5.3 on these scores, with pandas 2.3.3 and NumPy 2.3.5.
    assert over_recordings("psds1", thresholds(50))(np.arange(6))[0] == pytest.approx(0.290131055563041, abs=1e-12)
    assert over_recordings("psds2", thresholds(50))(np.arange(6))[0] == pytest.approx(0.8948344790199124, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "value", "each"),
    [
        ("psds1", 0.2875290881929662, [0.4888888888888889, 0.2727272727272727, 0.5538461538461539]),
        ("psds2", 0.9105846828750704, [0.8888888888888888, 1.0, 1.0]),
    ],
)
def test_as_sed_scores_eval_from_every_score_as_a_threshold(name, value, each):
    # sed_scores_eval 0.0.4 on these scores, which needs no thresholds, with pandas 2.3.3.
    found, of_each = over_recordings(name)(np.arange(6))
    assert found == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(of_each, each, atol=1e-12)


def test_recordings_count_as_often_as_they_are_named():
    of = over_recordings("psds2", thresholds(50))
    assert of(np.arange(6).repeat(2))[0] == pytest.approx(of(np.arange(6))[0], abs=1e-12)
    scores, events = (list(part)[3:] for part in zip(*recordings(), strict=True))
    some = psds_of(scores, 0.04, events, [10.0] * 3, SCENARIOS["psds2"], thresholds(50))
    assert of(np.arange(3, 6))[0] == pytest.approx(some(np.arange(3))[0], abs=1e-12)
