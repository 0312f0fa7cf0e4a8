import numpy as np
import pytest

from tacit.evaluation.event_scores import Event, class_f1, event_counts, f1_scores, segment_counts


def test_segments_of_a_second():
    true = [Event(0.5, 2.0, 0), Event(3.2, 3.4, 1)]
    said = [Event(1.1, 1.2, 0), Event(2.0, 3.0, 0), Event(3.0, 4.5, 1)]
    # Of class 0 segments 0 and 1 are true, 1 and 2 said; of class 1 segment 3 is true, 3 and 4 are said.
    np.testing.assert_array_equal(segment_counts(said, true, 4.6, 2), [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(segment_counts([], true, 4.6, 2), [[0, 0, 2], [0, 0, 1]])
    np.testing.assert_array_equal(segment_counts([Event(0, 99, 0)], [], 4.0, 1), [[0, 4, 0]])
    np.testing.assert_array_equal(segment_counts([Event(0, 0.1, 0)], [Event(0, 0.3, 0)], 0.4, 1), [[1, 0, 0]])


@pytest.mark.parametrize(
    ("onset", "offset", "right"),
    [
        (1.0, 2.0, True), (0.8, 2.0, True), (1.2, 2.2, True), (0.79, 2.0, False), (1.21, 2.0, False),
        (1.0, 2.21, False), (1.0, 1.79, False),
    ],
)  # fmt: skip
def test_collars_of_a_short_event(onset, offset, right):
    counts = event_counts([Event(onset, offset, 0)], [Event(1.0, 2.0, 0)], 1)
    np.testing.assert_array_equal(counts, [[1, 0, 0] if right else [0, 1, 1]])


def test_the_offset_of_a_long_event_may_be_a_fifth_of_it_away():
    true = [Event(0.0, 5.0, 0)]
    for offset, right in ((6.0, True), (4.0, True), (6.01, False), (3.99, False)):
        assert event_counts([Event(0.1, offset, 0)], true, 1)[0, 0] == right
    # It is a fifth of the true event, not of what was found.
    assert event_counts([Event(0.0, 1.0, 0)], [Event(0.0, 0.75, 0)], 1)[0, 0] == 0
    assert event_counts([Event(0.0, 1.0, 0)], [Event(0.0, 0.75, 0)], 1, collar=0.3)[0, 0] == 1


def test_each_event_is_found_once_and_as_many_as_can_be():
    true = [Event(1.0, 2.0, 0), Event(1.3, 2.3, 0)]
    # The first that is found fits both true ones, the second the first alone: two are right only if they are crossed.
    said = [Event(1.15, 2.15, 0), Event(0.85, 1.85, 0)]
    np.testing.assert_array_equal(event_counts(said, true, 1), [[2, 0, 0]])
    np.testing.assert_array_equal(event_counts([said[0]] * 3, true, 1), [[2, 1, 0]])
    np.testing.assert_array_equal(event_counts(said, [], 1), [[0, 2, 0]])
    np.testing.assert_array_equal(event_counts([e._replace(label=1) for e in said], true, 2), [[0, 0, 2], [0, 2, 0]])


def test_f1_of_all_and_of_the_classes_that_there_are():
    counts = np.array([[[2, 0, 0], [0, 1, 1], [0, 3, 0]], [[1, 1, 0], [1, 0, 0], [0, 0, 0]]])
    micro, macro = f1_scores(counts)
    assert micro == pytest.approx(2 * 4 / (2 * 4 + 5 + 1))
    np.testing.assert_allclose(class_f1(counts), [6 / 7, 0.5, 0.0])
    assert macro == pytest.approx((6 / 7 + 0.5) / 2)  # the third is nowhere
    assert all(np.isnan(f1_scores(np.zeros((2, 3, 3)))))
