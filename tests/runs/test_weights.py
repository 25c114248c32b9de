import hashlib

import pytest
import torch
from safetensors.torch import load_file

from ornstein.runs.disk import NewFile
from ornstein.runs.weights import DTYPES, parse_header, read_tensors, write_tensors


def written(path, tensors) -> str:
    with NewFile(path) as file:
        write_tensors(file, tensors)
    return file.sha256


@pytest.mark.parametrize("code", sorted(DTYPES))
def test_the_reference_reader_reads_what_we_write(code, tmp_path):
    dtype = DTYPES[code]
    bits = torch.arange(48, dtype=torch.uint8)
    values = (bits % 2).bool() if dtype is torch.bool else bits.view(dtype)
    wanted = {"w": values.view(2, -1), "none": values[:0], "one": values[1]}
    path = tmp_path / "model.safetensors"
    digest = written(path, wanted)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for found in (load_file(path), read_tensors(path, sha256=digest)):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name].dtype == dtype and found[name].shape == value.shape
            same = found[name].reshape(-1).view(torch.uint8) == value.reshape(-1).view(torch.uint8)
            assert same.all()


def test_any_layout_in_memory_is_written_by_value(tmp_path):
    x = torch.arange(24.0).view(1, 2, 3, 4)
    wanted = {
        "transposed": x[0, 0].T,
        "strided": x[..., ::2],
        "channels last": x.to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(5),
        "learned": torch.nn.Parameter(torch.ones(2)),
        "negated": torch.ones(2, requires_grad=True) * -1,
    }
    path = tmp_path / "model.safetensors"
    written(path, wanted)
    found = read_tensors(path)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_tensors_are_aligned_whatever_their_order(tmp_path):
    path = tmp_path / "model.safetensors"
    written(
        path, {"b": torch.ones(3).bool(), "h": torch.ones(3).half(), "d": torch.ones(3).double()}
    )
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for entry in parse_header(data[8 : 8 + length], len(data) - 8 - length):
        assert (8 + length + entry.start) % entry.dtype.itemsize == 0


def test_each_tensor_has_memory_of_its_own(tmp_path):
    """Or the first would keep all others alive, and lie where kernels are slow."""
    path = tmp_path / "model.safetensors"
    written(path, {"a": torch.ones(3), "b": torch.ones(5)})
    found = read_tensors(path)
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in found.values())
    assert all(t.data_ptr() % 64 == 0 for t in found.values())


@pytest.mark.parametrize("name", ["", "a\nb", "__metadata__", "x" * 1001])
def test_names_that_no_strict_reader_takes_are_not_written(name, tmp_path):
    with pytest.raises(ValueError, match="expected a printable name"):
        written(tmp_path / "model.safetensors", {name: torch.ones(1)})


def test_complex_numbers_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="a plain dtype"):
        written(tmp_path / "model.safetensors", {"z": torch.ones(1, dtype=torch.complex64)})


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        written(path, {"w": torch.ones(1)})
    assert path.read_bytes() == b"precious"
