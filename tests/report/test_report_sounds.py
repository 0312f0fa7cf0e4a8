import base64
import io

import numpy as np
from PIL import Image

from tacit.data import open_source
from tacit.engine.samples import save_sample_views
from tacit.report.contents import HOW_SPECTROGRAMS, _pictures
from tacit.report.pictures import Thumbnails
from tacit.run import Run
from tacit.views import Excerpt, Views, kaldi_inputs

INPUTS = kaldi_inputs(frames=48, mels=16, rate=8000)  # 0.495 s


def picture(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_sample_views_are_spectrograms(tones, tmp_path):
    views = [Excerpt(INPUTS, name="a"), Excerpt(INPUTS, name="b")]
    save_sample_views(tmp_path / "views.npz", Views(open_source(tones), views, 0), views)
    with np.load(tmp_path / "views.npz") as stored:
        assert stored["views"].shape == (2, 8, 16, 48, 1)
        assert stored["names"].tolist() == ["a", "b"]
        assert str(stored["kind"]) == "audio"
        high, low = stored["views"][0, 0, :, :, 0], stored["views"][0, 0, ::-1, :, 0]
    assert high[:8].mean() > low[:8].mean() + 20  # a sweep of 2,000 Hz and more lies in the upper half
    (tmp_path / "settings.yaml").write_text("method: asit\n")
    page = str(_pictures(Run(tmp_path), "views", 96))
    assert HOW_SPECTROGRAMS in page
    assert 'class="views sounds"' in page


def test_thumbnails_of_sounds_show_no_more_than_there_is(tones):
    source = open_source(tones)
    long = kaldi_inputs(frames=480, mels=16, rate=8000)  # ten times as long as the recordings
    for inputs in (INPUTS, long):
        found = picture(Thumbnails(source, np.arange(40), inputs)(0, 32))
        assert found.shape == (32, 32)
        assert found[:16].mean() > found[16:].mean() + 20
        assert found[:16, 20:].mean() > 40  # silence at the end would be dark
