import json

import pytest

from tacit.data.transcript import SentenceCut, Transcript
from tacit.errors import BadRecord

SRT = (
    "1\n00:00:01,000 --> 00:00:02,500\nHello <i>there</i>,\nfriend\n\n"
    "2\n00:00:02,000 --> 00:00:04,000\nagain &amp;<br>again\n"
)


def sentences(tmp_path, name: str, data: str | bytes) -> list[tuple]:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [tuple(s) for s in Transcript(path).sentences]


WANTED = [(1.0, 2.5, "Hello there, friend"), (2.0, 4.0, "again & again")]


def test_subtitles_are_read_as_people_write_them(tmp_path):
    assert sentences(tmp_path, "a.srt", SRT) == WANTED
    assert sentences(tmp_path, "b.srt", b"\xef\xbb\xbf" + SRT.replace("\n", "\r\n").encode()) == WANTED
    assert sentences(tmp_path, "c.srt", SRT.encode("utf-16")) == WANTED
    vtt = "WEBVTT\n\nNOTE no cue\n\nx\n" + SRT.replace(",000", ".000").replace("00:00:0", "00:0").replace("2,5", "2.5")
    assert sentences(tmp_path, "a.vtt", vtt.replace("\n2\n", "\n\n").replace("1\n00", "00")) == WANTED
    assert sentences(tmp_path, "d.txt", SRT) == WANTED  # by what is in it
    assert sentences(tmp_path, "l.srt", SRT.replace("Hello", "Olá").encode("cp1252"))[0][2] == "Olá there, friend"


def test_tables_lists_and_plain_words(tmp_path):
    rows = [
        {"start": 1, "end": 2.5, "text": "Hello there, friend"},
        {"start": "0:02", "end": "00:00:04.0", "text": WANTED[1][2]},
    ]
    assert sentences(tmp_path, "a.json", json.dumps(rows)) == WANTED
    assert sentences(tmp_path, "b.json", json.dumps({"language": "en", "segments": rows})) == WANTED
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert sentences(tmp_path, "c.json", json.dumps(columns)) == WANTED  # HowTo100M's
    assert sentences(tmp_path, "a.csv", "Start,Duration,Caption\n1,1.5,one\n2,2,two\n") == [
        (1, 2.5, "one"),
        (2, 4, "two"),
    ]
    assert sentences(tmp_path, "a.txt", "one\n\n two  words \n") == [(None, None, "one"), (None, None, "two words")]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.srt", b"", "empty file"), ("b.srt", b"words alone", "no cue"), ("c.json", b"{", "no sentences"),
        ("d.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\n", "no text"), ("e.txt", bytes(99) + b"x", "not a text"),
        ("f.csv", b"a,b\n1,2\n", "no column"),
        ("g.json", b'[{"text": "x", "start": "soon", "end": 2}]', "no sentences"),
    ],
)  # fmt: skip
def test_trouble_has_short_reasons(tmp_path, name, data, reason):
    with pytest.raises(BadRecord, match=reason):
        sentences(tmp_path, name, data)


def test_the_bag_is_the_sentence_that_overlaps_most_and_its_neighbours(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("".join(f"{k}\n00:00:{2 * k:02d},000 --> 00:00:{2 * k + 2:02d},000\ns{k}\n\n" for k in range(10)))
    text = Transcript(path)
    assert text.crops([SentenceCut(6.5, 9.7, 5), SentenceCut(0.0, 1.0, 3)]) == [
        ["s4", "s3", "s5", "s2", "s6"],
        ["s0", "s1", "s2"],
    ]
    assert text.crops([SentenceCut(None, None, 1)]) == [["s4"]]  # the middle
    assert text.crops([SentenceCut(100.0, 103.0, 2)]) == [["s9", "s8"]]  # the nearest, where nobody speaks
    assert len(text.crops([SentenceCut(0.0, 3.0, 99)])[0]) == 10
    part = Transcript(path, start=4.0, end=8.0)
    assert [(s.start, s.text) for s in part.sentences] == [(0.0, "s2"), (2.0, "s3")]
