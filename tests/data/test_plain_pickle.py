import os
import pickle
import pickletools

import numpy as np
import pytest

from tacit.data.plain_pickle import read_plain
from tacit.errors import DataError

VALUES = {
    "plain": [1, 2.5, "ä", None, True, (1, 2)],
    "rows": np.array([3, 1, 2]),
    "scalar": np.float64(2.5),
    "by_columns": np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
    "big_endian": np.array([1, 258], dtype=">i4"),
    "bool": np.array([True, False]),
    "empty": np.zeros(0, np.int64),
}
PLAIN = {
    "plain": [1, 2.5, "ä", None, True, [1, 2]], "rows": [3, 1, 2], "scalar": 2.5, "by_columns": [[0, 1, 2], [3, 4, 5]],
    "big_endian": [1, 258], "bool": [True, False], "empty": [],
}  # fmt: skip
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_and_arrays_are_read(protocol):
    assert read_plain(pickle.dumps(VALUES, protocol)) == PLAIN


def test_the_strings_of_python_2_are_read():
    # As Python 2 wrote {'a': numpy.array([1, 2])} with protocol 0: strings of bytes, and the modules of its day.
    data = (
        b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
        b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'i8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nb"
        b"I00\nS'\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\np15\ntp16\nbs."
    )
    assert read_plain(data) == {"a": [1, 2]} == pickle.loads(data, encoding="latin1") | {"a": [1, 2]}


class Trap:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Trap(), r"asks for \w+\.mkdir"),
        ({"a": [np.array([Trap()], dtype=object)]}, "not of numbers|asks for"),
        (np.array(["text"]), "not of numbers"),
        (np.zeros(2, [("a", "i4")]), "not of numbers"),
        ({1, 2}, "asks for|holds a set"),
        (1 + 2j, r"asks for \w+\.complex"),
    ],
)
def test_what_is_not_plain_is_refused_and_nothing_runs(tmp_path, monkeypatch, value, said, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        read_plain(pickle.dumps(value, protocol))
    assert not list(tmp_path.iterdir())


def test_a_claimed_layout_of_memory_is_not_believed():
    data = pickle.dumps(np.arange(4), 2)
    longer = data.replace(b"K\x04\x85", b"K\x63\x85")  # says 99 values and holds four
    assert longer != data
    assert list(pickletools.genops(longer))  # still a well-formed pickle
    with pytest.raises(DataError, match=r"said to be \[99\] with 4 values"):
        read_plain(longer)


def test_what_is_no_pickle_is_said():
    whole = pickle.dumps(VALUES)
    for data in (b"", b"PK\x03\x04", whole[:-20], b'{"a": 1}'):
        with pytest.raises(DataError, match="no pickle, or a damaged one"):
            read_plain(data)
