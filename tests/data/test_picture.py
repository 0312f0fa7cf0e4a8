import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

import tacit.data.picture
from tacit.data import Cut, Picture
from tacit.errors import BadRecord

RNG = np.random.default_rng(0)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60), 3))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "PPM"])
def test_lossless_formats_keep_every_pixel(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = Picture(encoded(Image.fromarray(SMOOTH), kind, **options))
    assert (picture.height, picture.width) == (60, 80)
    np.testing.assert_array_equal(picture.array(), SMOOTH)


def test_a_crop_is_pillows_resize_of_a_box():
    cut = Cut(10, 20, 30, 40, (16, 24), "bicubic")
    (ours,) = Picture(encoded(Image.fromarray(SMOOTH), "PNG")).crops([cut])
    theirs = Image.fromarray(SMOOTH).resize((24, 16), Image.Resampling.BICUBIC, box=(20, 10, 60, 40))
    np.testing.assert_array_equal(ours, np.asarray(theirs))
    (flipped,) = Picture(encoded(Image.fromarray(SMOOTH), "PNG")).crops([cut._replace(flip=True)])
    np.testing.assert_array_equal(flipped, ours[:, ::-1])


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    large = Image.fromarray(SMOOTH).resize((800, 600), 3)
    picture = Picture(encoded(large, "JPEG", quality=95))
    cuts = [Cut(0, 0, 600, 800, (32, 32)), Cut(100, 100, 400, 500, (32, 32))]
    crops = picture.crops(cuts)
    assert picture._image.size == (100, 75)  # 1/8
    for cut, crop in zip(cuts, crops, strict=True):
        box = (cut.left, cut.top, cut.left + cut.width, cut.top + cut.height)
        whole = np.asarray(large.resize((32, 32), Image.Resampling.BILINEAR, box=box), dtype=float)
        assert np.abs(whole - crop).mean() < 3
    small = Picture(encoded(large, "JPEG", quality=95))
    small.crops([*cuts, Cut(0, 0, 32, 32, (32, 32))])
    assert small._image.size == (800, 600)  # one crop needs full scale


def test_exif_rotation_is_undone_before_anything_is_cut():
    image = Image.fromarray(SMOOTH)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Picture(encoded(image, "PNG", exif=exif))
    assert (picture.height, picture.width) == (80, 60)
    np.testing.assert_array_equal(picture.array(), np.rot90(SMOOTH, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_channels_asked_for(mode, channels):
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    pixels = Picture(encoded(Image.fromarray(SMOOTH).convert(mode), kind), channels).array()
    assert pixels.shape == (60, 80, channels)
    assert pixels.dtype == np.uint8
    if mode in ("RGBA", "CMYK"):
        expected = np.asarray(Image.fromarray(SMOOTH).convert("L" if channels == 1 else "RGB")).reshape(pixels.shape)
        assert np.abs(expected.astype(int) - pixels).mean() < 3


def test_sixteen_bits_keep_their_depth():
    deep = (RNG.random((20, 30)) * 65535).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = Picture(encoded(Image.fromarray(deep), kind), 1).array()
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels[:, :, 0], deep / 65535, atol=1e-6)
    (crop,) = Picture(encoded(Image.fromarray(deep), "PNG"), 3).crops([Cut(0, 0, 20, 30, (8, 8))])
    assert crop.shape == (8, 8, 3)
    assert Picture(encoded(Image.fromarray(deep), "PNG"), 3).array().shape == (20, 30, 3)
    assert 0 <= crop.min() <= crop.max() <= 1


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(Picture(data).array()[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize("layout", ["pages", "bands", "npy", "npy channels first"])
def test_many_channels(layout):
    values = RNG.integers(0, 256, (12, 10, 5), dtype=np.uint8)
    buffer = io.BytesIO()
    if layout == "pages":
        tifffile.imwrite(buffer, np.moveaxis(values, 2, 0), photometric="minisblack")
    elif layout == "bands":
        tifffile.imwrite(buffer, values, photometric="minisblack", planarconfig="contig")
    else:
        np.save(buffer, values if layout == "npy" else np.moveaxis(values, 2, 0))
    picture = Picture(buffer.getvalue(), 5)
    np.testing.assert_array_equal(picture.array(), values)
    assert picture.crops([Cut(0, 0, 12, 10, (6, 6), flip=True)])[0].shape == (6, 6, 5)
    with pytest.raises(BadRecord, match="5 channels, the run expects 4"):
        Picture(buffer.getvalue(), 4)


PNG = encoded(Image.fromarray(SMOOTH), "PNG")
JPEG = encoded(Image.fromarray(SMOOTH), "JPEG")
HEADER = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + PNG[24:29]
HUGE = PNG[:12] + HEADER + zlib.crc32(HEADER).to_bytes(4, "big") + PNG[33:]

BROKEN = {
    "empty": (b"", "empty file"),
    "truncated jpeg": (JPEG[:-20], "truncated"),
    "a jpeg cut in its header": (JPEG[:100], "truncated"),
    "a jpeg cut before its pixels": (JPEG[: JPEG.index(b"\xff\xda") - 1], "truncated"),
    "a webp cut short": (encoded(Image.fromarray(SMOOTH), "WEBP")[:-20], "damaged"),
    "truncated png": (PNG[: len(PNG) // 2], "truncated"),
    "only a header": (JPEG[:12], "not an image|cannot be decoded|truncated"),
    "a web page": (b"<html>not found</html>", "looks like HTML"),
    "text": (b"these are not the pixels you want", "looks like text"),
    "a zip": (b"PK\x03\x04" + bytes(40), "looks like a zip"),
    "zeros": (bytes(400), "zeros"),
    "a bomb": (HUGE, "too large"),
    "nan": (npy(np.full((4, 4, 3), np.nan)), "NaN"),
    "out of range": (npy(np.full((4, 4, 3), 7.0)), "0 to 1"),
    "no pixels": (npy(np.zeros((0, 4, 3))), "no pixels"),
    "objects": (npy(np.array(["a"])), "not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_kind_of_broken_file_has_its_reason(name):
    data, reason = BROKEN[name]
    with pytest.raises(BadRecord, match=reason):
        Picture(data).array()


def test_alpha_stays_when_four_channels_are_asked_for():
    rgba = np.dstack([SMOOTH, np.full((60, 80), 7, np.uint8)])
    np.testing.assert_array_equal(Picture(encoded(Image.fromarray(rgba), "PNG"), 4).array(), rgba)
    with pytest.raises(BadRecord, match="3 channels, the run expects 4"):
        Picture(PNG, 4).array()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_crop_of_a_large_picture_is_that_of_torchvision(interpolation, as_file):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    picture = Picture(encoded(Image.fromarray(pixels), "png") if as_file else pixels)
    cuts = [Cut(20, 30, 90, 100, (48, 40), interpolation, flip) for flip in (False, True)]
    plain, flipped = picture.crops(cuts)
    mode = InterpolationMode(interpolation)
    expected = resized_crop(Image.fromarray(pixels), 20, 30, 90, 100, [48, 40], mode)
    assert np.abs(plain.astype(int) - np.asarray(expected)).max() <= 1
    np.testing.assert_array_equal(flipped, plain[:, ::-1])
    assert plain.dtype == np.uint8


PHOTO = Image.fromarray(SMOOTH).resize((320, 240), 3)
WHOLE = Cut(0, 0, 240, 320, (200, 200))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"restart_marker_blocks": 3}]
)
def test_a_jpeg_has_the_pixels_that_pillow_reads(options):
    data = encoded(PHOTO, "JPEG", **options)
    picture = Picture(data)
    np.testing.assert_array_equal(picture._whole_jpeg(), np.asarray(Image.open(io.BytesIO(data))))
    (ours,) = picture.crops([WHOLE])
    assert picture._image.fp is not None  # Pillow has read no more than the header
    (theirs,) = Picture(np.asarray(Image.open(io.BytesIO(data)))).crops([WHOLE])
    np.testing.assert_array_equal(ours, theirs)


def test_other_jpegs_and_broken_ones_are_left_to_pillow():
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for image, options in ((PHOTO.convert("L"), {}), (PHOTO.convert("CMYK"), {}), (PHOTO, {"exif": rotated})):
        picture = Picture(encoded(image, "JPEG", **options))
        assert picture._whole_jpeg() is None
        assert picture.crops([Cut(0, 0, 200, 200, (150, 150))])[0].shape == (150, 150, 3)
    assert Picture(encoded(PHOTO, "JPEG"), channels=1)._whole_jpeg() is None
    data = encoded(PHOTO, "JPEG")
    for end in (len(data) // 2, len(data) - 40):
        with pytest.raises(BadRecord, match="truncated"):
            Picture(data[:end]).crops([WHOLE])


def test_without_its_decoder_a_jpeg_is_the_same(monkeypatch):
    (ours,) = Picture(encoded(PHOTO, "JPEG")).crops([WHOLE])
    monkeypatch.setattr(tacit.data.picture, "_jpeg_decoder", lambda: None)
    (theirs,) = Picture(encoded(PHOTO, "JPEG")).crops([WHOLE])
    np.testing.assert_array_equal(ours, theirs)


def test_a_worker_is_silent_of_damage_that_libjpeg_repairs(monkeypatch, capfd):
    data = encoded(PHOTO, "JPEG")
    damaged = data[:-2] + bytes(10) + data[-2:]
    Picture(damaged).crops([WHOLE])
    if "extraneous bytes" not in capfd.readouterr().err:
        pytest.skip("it says nothing in any process")
    monkeypatch.setattr(tacit.data.picture, "get_worker_info", lambda: "a worker")
    (crop,) = Picture(damaged).crops([WHOLE])
    assert not capfd.readouterr().err
    np.testing.assert_array_equal(crop, Picture(data).crops([WHOLE])[0])


def test_a_worker_without_stderr_reads_too(monkeypatch):
    (expected,) = Picture(encoded(PHOTO, "JPEG")).crops([WHOLE])
    monkeypatch.setattr(tacit.data.picture, "get_worker_info", lambda: "a worker")

    def closed(number):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(tacit.data.picture.os, "dup", closed)
    np.testing.assert_array_equal(Picture(encoded(PHOTO, "JPEG")).crops([WHOLE])[0], expected)
