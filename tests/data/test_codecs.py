"""Codecs: x and back, files and back, JSON and back."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ornstein.data import Codec, DataOptions, ImageCodec, PointsCodec, open_data
from ornstein.errors import DataError, ModelFileError

INTEGERS = ["bool", "uint8", "int8", "uint16", "int16"]


def pictures(dtype: str, channels: int, count: int = 6, height: int = 5, width: int = 7):
    draw = np.random.default_rng(channels)
    shape = (count, height, width, channels)
    if dtype.startswith("float"):
        return (draw.standard_normal(shape) * 100 + 1000).astype(dtype)
    if dtype == "bool":
        return draw.random(shape) < 0.3
    ends = np.iinfo(dtype)
    values = draw.integers(ends.min, ends.max, shape, endpoint=True).astype(dtype)
    values[0, 0, 0], values[0, 0, 1] = ends.min, ends.max
    return values


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_unpack_undoes_pack_exactly_for_integers(dtype, channels):
    values = pictures(dtype, channels)
    dataset = open_data(values)
    x = dataset.codec.pack(dataset.stored)
    back = dataset.codec.unpack(x)
    assert x.dtype == torch.float32 and back.dtype == values.dtype
    assert np.array_equal(back, values)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32"])
def test_wide_types_keep_24_bits_of_their_distance_from_the_mean(dtype):
    values = pictures(dtype, 3)
    codec = open_data(values).codec
    back = codec.unpack(codec.pack(open_data(values).stored))
    mean = np.array(codec.mean)
    half_ulp = 2.0**-24 * np.abs(values - mean) + (0 if dtype == "float64" else 1e-4)
    rounding = 1.0 if "int" in dtype else 0.0
    assert back.dtype == values.dtype
    assert (np.abs(back.astype(float) - values.astype(float)) <= 1.01 * half_ulp + rounding).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_x_has_mean_0_and_variance_1_in_each_channel(dtype):
    dataset = open_data(pictures(dtype, 3, count=50))
    x = dataset.codec.pack(dataset.stored).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.var(1, correction=0), torch.ones(3).double(), rtol=1e-5, atol=0)


def test_a_constant_channel_comes_back_exactly_whatever_was_sampled():
    values = pictures("float32", 2)
    values[..., 1] = 0.1
    codec = open_data(values).codec
    x = torch.randn(4, *codec.shape)
    assert (codec.unpack(x)[..., 1] == np.float32(0.1)).all()


def test_integers_are_rounded_and_clipped_to_their_levels():
    codec = ImageCodec(shape=(1, 1, 4), dtype="uint8", mean=(8.0,), std=(1.0,), levels=17)
    x = torch.tensor([-100.0, 0.4, 0.6, 100.0]).reshape(1, 1, 1, 4)
    assert codec.unpack(x).ravel().tolist() == [0, 8, 9, 16]


@pytest.mark.parametrize("dtype", [*INTEGERS[1:], "uint32", "int32", "int64"])
def test_masks_of_every_integer_type_take_the_values_that_occur(dtype):
    masks = np.random.default_rng(0).choice(np.array([0, 1, 5], dtype), (100, 8, 8))
    codec = open_data(masks).codec
    assert codec.values == (0, 1, 5)
    assert set(np.unique(codec.unpack(torch.randn(4, *codec.shape)))) == {0, 1, 5}


def test_unpack_refuses_nan():
    codec = ImageCodec(shape=(1, 1, 1), dtype="uint8", mean=(8.0,), std=(1.0,), levels=256)
    with pytest.raises(ValueError, match="finite"):
        codec.unpack(torch.full((1, 1, 1, 1), torch.nan))


def test_log_det_is_that_of_the_map_from_stored_to_x():
    dataset = open_data(pictures("float64", 2, height=2, width=3))
    codec = dataset.codec
    stored = dataset.stored[:1].double()
    jacobian = torch.autograd.functional.jacobian(lambda s: codec.pack(s).flatten(), stored)
    sign, log = torch.linalg.slogdet(jacobian.reshape(12, 12).double())
    assert sign == 1
    assert math.isclose(codec.log_det, log.item(), abs_tol=1e-4)


@pytest.mark.parametrize("layout", ["HWC", "HW", "CHW"])
def test_unpack_gives_the_layout_of_the_source(layout):
    values = pictures("uint8", 1 if layout == "HW" else 3)
    values = values[..., 0] if layout == "HW" else values
    given_ = torch.from_numpy(values.transpose(0, 3, 1, 2)) if layout == "CHW" else values
    dataset = open_data(given_)
    assert dataset.codec.layout == layout
    assert np.array_equal(dataset.codec.unpack(dataset.codec.pack(dataset.stored)), given_)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32"])
@pytest.mark.parametrize("form", ["png", "npy"])
def test_saved_pictures_read_back_as_the_same_values(tmp_path, dtype, channels, form):
    values = pictures(dtype, channels)
    if form == "npy":
        np.save(tmp_path / "source.npy", values)
        dataset = open_data(tmp_path / "source.npy")
    else:
        dataset = open_data(values)
    codec = dataset.codec
    x = codec.pack(dataset.stored)
    paths = list(codec.save(x, tmp_path / "out", start=3))
    assert [int(p.stem) for p in paths] == [3, 4, 5, 6, 7, 8]
    expected = codec.stored(x)
    for path, row in zip(paths, expected, strict=True):
        assert np.array_equal(codec.read(path)[0].numpy(), row)
    kept = DataOptions(channels=4 if channels == 4 else None)  # keeps transparency
    again = open_data(tmp_path / "out", kept)
    if dtype != "bool" or form == "npy":
        assert np.array_equal(again.stored.numpy(), expected)
        assert again.codec.dtype == dtype


def test_pictures_of_few_levels_are_stretched_in_files_and_pressed_back(tmp_path):
    dataset = open_data("digits", DataOptions(limit=20))
    x = dataset.codec.pack(dataset.stored)
    paths = list(dataset.codec.save(x, tmp_path))
    assert max(np.asarray(Image.open(p)).max() for p in paths) == 255
    back = torch.cat([dataset.codec.read(p) for p in paths])
    assert torch.equal(back, dataset.stored)


def test_labels_become_part_of_the_name_and_cannot_leave_the_folder(tmp_path):
    dataset = open_data(pictures("uint8", 1, count=2))
    x = dataset.codec.pack(dataset.stored)
    names = [p.name for p in dataset.codec.save(x, tmp_path, labels=["cat", "../../etc/é"])]
    assert names == ["000000-cat.png", "000001-.._.._etc__.png"]
    assert {p.name for p in tmp_path.iterdir()} == set(names)


def test_nothing_half_written_is_left_when_the_disk_refuses(tmp_path, monkeypatch):
    from ornstein.errors import StorageError

    dataset = open_data(pictures("uint8", 1, count=1))

    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        list(dataset.codec.save(dataset.codec.pack(dataset.stored), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_preview_shows_every_picture_in_a_grid():
    dataset = open_data("digits", DataOptions(limit=6))
    sheet = dataset.codec.preview(dataset.codec.pack(dataset.stored), columns=3, scale=2)
    assert sheet.size == (3 * 18 + 2, 2 * 18 + 2)
    corner = np.asarray(sheet)[2:18:2, 2:18:2, 0]  # the first picture, one pixel of each 2 x 2
    assert np.array_equal(corner, np.rint(dataset.stored[0, 0].numpy() * (255 / 16)))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "bool"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_preview_of_any_picture_is_8_bit_colour(dtype, channels):
    dataset = open_data(pictures(dtype, channels))
    sheet = dataset.codec.preview(dataset.codec.pack(dataset.stored))
    assert sheet.mode == "RGB" and len(np.unique(np.asarray(sheet))) > 1


def test_preview_of_points_puts_ink_where_the_points_are():
    dataset = open_data("8-gaussians", DataOptions(limit=800))
    sheet = np.asarray(dataset.codec.preview(dataset.codec.pack(dataset.stored)))
    dark = (sheet.sum(2) < 700).nonzero()
    assert len(dark[0]) > 200
    radius = np.hypot(dark[0] - 239.5, dark[1] - 239.5) / 80  # in std: a circle of sqrt(2)
    assert abs(np.median(radius) - math.sqrt(2)) < 0.05


# --- JSON ----------------------------------------------------------------------------------------

CODECS = [
    open_data(pictures("uint16", 1)).codec,
    open_data(pictures("float32", 5)).codec,
    open_data("moons", DataOptions(limit=20)).codec,
    open_data("digits", DataOptions(limit=20)).codec,
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.kind)
def test_a_codec_is_the_same_after_json(codec):
    assert Codec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec


HOSTILE = [
    {"kind": "os.system"},
    {"kind": ["image"]},
    {"shape": [10**9, 10**9, 3]},
    {"shape": [3, 0, 4]},
    {"shape": [-1, 4, 4]},
    {"shape": "abc"},
    {"mean": [float("nan")]},
    {"mean": [1.0, 2.0]},
    {"std": [-1.0]},
    {"std": [float("inf")]},
    {"dtype": "object"},
    {"levels": 10**12},
    {"levels": "many"},
    {"format": "exe"},
    {"_target_": "os.system"},
    {"layout": None},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_hostile_codec_is_refused(change):
    values = ImageCodec(shape=(1, 4, 4), dtype="uint8", mean=(0.0,), std=(1.0,)).to_dict() | change
    with pytest.raises(ModelFileError):
        Codec.from_dict(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(CODECS), st.text(max_size=8), JSON, st.data())
def test_any_json_is_a_valid_codec_or_refused(codec, name, value, data):
    values = codec.to_dict()
    values[data.draw(st.sampled_from([*values, name]))] = value
    try:
        made = Codec.from_dict(values)
    except ModelFileError:
        return
    assert made.pack(torch.zeros(1, *made.shape)).shape == (1, *made.shape)


def test_read_refuses_what_the_codec_was_not_made_from(tmp_path):
    codec = open_data(pictures("float32", 1)).codec
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png.*uint8.*trained on float32"):
        codec.read(tmp_path / "a.png")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_read_refuses_pictures_that_are_not_finite(tmp_path, bad):
    values = pictures("float32", 1)
    codec = open_data(values).codec
    values[0, 0, 0] = bad
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=r"a\.npy cannot be used: it holds NaN or infinite"):
        codec.read(tmp_path / "a.npy")


def test_read_scales_and_cuts_to_the_shape_of_the_run(tmp_path):
    codec = open_data(pictures("uint8", 3, height=8, width=8)).codec
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200  # the centre
    Image.fromarray(wide).save(tmp_path / "wide.png")
    stored = codec.read(tmp_path / "wide.png")
    assert stored.shape == (1, 3, 8, 8) and stored.dtype == torch.uint8
    assert (stored[..., 2:6].int() - 200).abs().max() <= 20  # as far as the filter rings


# --- Points --------------------------------------------------------------------------------------


def test_points_of_a_csv_come_back_in_their_units(tmp_path):
    draw = np.random.default_rng(0)
    rows = [f"{i};{v:.3f};7.5".replace(".", ",") for i, v in enumerate(draw.normal(1e4, 2, 40))]
    text = "\n".join(["\ufeffcount;weight;constant", *rows])
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    dataset = open_data(tmp_path / "a.csv")
    codec = dataset.codec
    assert isinstance(codec, PointsCodec)
    assert codec.columns == ("count", "weight", "constant") and codec.whole == (0,)
    noisy = codec.pack(dataset.stored) + 0.01 * torch.randn(40, 3)
    (path,) = codec.save(noisy, tmp_path / "out")
    lines = path.read_text().splitlines()
    assert lines[0] == "count;weight;constant"
    assert all(line.split(";")[0].lstrip("-").isdecimal() for line in lines[1:])
    assert all(line.split(";")[2] == "7,5" for line in lines[1:])
    assert np.array_equal(codec.read(path).numpy(), codec.unpack(noisy))


def test_whole_points_survive_exactly():
    values = np.random.default_rng(0).integers(-(2**15), 2**15, (50, 4)).astype(np.int16)
    dataset = open_data(values)
    back = dataset.codec.unpack(dataset.codec.pack(dataset.stored))
    assert back.dtype == np.int16 and np.array_equal(back, values)


def test_points_from_npy_are_saved_as_npy(tmp_path):
    values = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    dataset = open_data(tmp_path / "a.npy")
    x = dataset.codec.pack(dataset.stored)
    (path,) = dataset.codec.save(x, tmp_path / "out", start=5)
    assert path.name == "000005.npy"
    assert np.array_equal(np.load(path, allow_pickle=False), dataset.codec.unpack(x))


def test_text_in_exported_tables_cannot_be_a_formula(tmp_path):
    source = "x,'=cmd(),label\n1.5,2,=evil()\n2.5,4,-b\n"
    (tmp_path / "a.csv").write_text(source)
    dataset = open_data(tmp_path / "a.csv")
    assert dataset.codec.columns == ("x", "=cmd()") and set(dataset.classes) == {"=evil()", "-b"}
    names = [dataset.classes[i] for i in dataset.label.tolist()]
    (path,) = dataset.codec.save(dataset.codec.pack(dataset.stored), tmp_path / "out", labels=names)
    assert path.read_text() == source.replace(",=evil", ",'=evil").replace(",-b", ",'-b")
    again = open_data(path)
    assert again.classes == dataset.classes and again.codec.columns == dataset.codec.columns
