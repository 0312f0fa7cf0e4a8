import re

import numpy as np
import pytest

from tacit.errors import DataError
from tacit.evaluation.event_scores import Event
from tacit.evaluation.event_sets import active, events_in, matched, open_events

HEAD = "filename\tonset\toffset\tevent_label\n"


def write(folder, rows: str, *, head: str = HEAD, files=("a.wav", "b.wav"), inside=""):
    (folder / inside).mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / inside / name).write_bytes(b"x")
    (folder / "events.tsv").write_text(head + rows)
    return folder


@pytest.mark.parametrize("inside", ["", "audio"])
def test_a_table_as_deseds(tmp_path, inside):
    folder = write(tmp_path, "a.wav\t0.5\t1.25\tSpeech\na.wav\t1.0\t3\tDog\nb.wav\t\t\t\n", inside=inside)
    for where in (folder, folder / "events.tsv"):
        found = open_events(where)
        assert found.classes == ["Dog", "Speech"]
        assert found.events == [[Event(0.5, 1.25, 1), Event(1.0, 3.0, 0)], []]
        assert [found.source.name(i) for i in range(2)] == ["a.wav", "b.wav"]
        assert found.source.fields == ("audio",)
    again = matched(found, ["Cat", "Dog", "Speech"])
    assert again.events[0] == [Event(0.5, 1.25, 2), Event(1.0, 3.0, 1)]
    with pytest.raises(DataError, match="has events that training has not: Speech"):
        matched(found, ["Dog"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("c.wav\t0\t1\tDog\n", "names 'c.wav', which is neither in"),
        ("a.wav\t1\t1\tDog\n", "line 2: onset 1 and offset 1 must be seconds, the onset first"),
        ("a.wav\tx\t1\tDog\n", "line 2: onset 'x' and offset '1' must be seconds"),
        ("a.wav\t0\tnan\tDog\n", "must be seconds, the onset first"),
        ("a.wav\t0\t1\tDog\na.wav\t0\t1\t\n", "line 3: an event without a label"),
        ("a.wav\t\t\t\n", "names no event"),
    ],
)
def test_what_is_wrong_in_a_table_is_said(tmp_path, rows, said):
    with pytest.raises(DataError, match=re.escape(said)):
        open_events(write(tmp_path, rows))


def test_what_is_no_table_is_said(tmp_path):
    with pytest.raises(DataError, match="holds no table"):
        open_events(tmp_path)
    write(tmp_path, "a.wav,0,1,Dog\n", head="filename,onset,offset,label\n")
    with pytest.raises(DataError, match="has no column filename and no column onset"):
        open_events(tmp_path)
    (tmp_path / "events.tsv").rename(tmp_path / "one.csv")
    with pytest.raises(DataError, match="has no column event_label"):
        open_events(tmp_path)
    (tmp_path / "two.csv").write_text("")
    with pytest.raises(DataError, match=r"holds 2 tables \(one.csv, two.csv\)"):
        open_events(tmp_path)


def test_frames_and_events_are_two_ways_of_saying_the_same():
    events = [Event(0.1, 0.3, 0), Event(0.5, 0.9, 0), Event(0.0, 1.0, 1)]
    frames = active(events, 10, 0.1, 3)
    assert frames.sum(0).tolist() == [6, 10, 0]
    found = events_in(frames == 1, 0.1)
    np.testing.assert_allclose([e[:2] for e in found], [e[:2] for e in events])
    assert [e.label for e in found] == [0, 0, 1]
    assert active([Event(0.06, 0.14, 0)], 3, 0.1, 1).sum() == 0  # no middle of a frame lies in it
