"""Little memory: the same gradients from less, in pieces that fit."""

import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny import tiny_config

from ornstein.data import DataOptions, open_data
from ornstein.nets import DiT, UNet
from ornstein.runs.config import NetConfig, RunConfig
from ornstein.train import progress, recipe, train
from ornstein.train.draws import Batch
from ornstein.train.memory import examples_at_once, kept, memory_kept, peak
from ornstein.train.training import Training

NETS = [NetConfig(kind="unet", size=16, depth=1), NetConfig(kind="dit", size=32, depth=3)]


def config_of(net: NetConfig, memory: str, **train) -> RunConfig:
    base = tiny_config(batch=8, memory=memory, **train)
    return replace(base, source="digits", data=DataOptions(limit=40), net=net)


def first(training: Training) -> Batch:
    """A batch of one example."""
    return training.aim.draw(training.data, torch.zeros(1, dtype=torch.int64), 0, slice(1))


@pytest.mark.parametrize("net", NETS, ids=["unet", "dit"])
def test_low_memory_gives_the_same_gradients_and_the_same_weights(net):
    data = open_data("digits", DataOptions(limit=40))
    plenty, low = (Training(config_of(net, memory), data) for memory in ("plenty", "low"))
    assert low.denoiser.net.recompute and not plenty.denoiser.net.recompute
    for _ in range(2):
        plenty.update()
        low.update()
        for p, q in zip(plenty.weights, low.weights, strict=True):
            assert p.grad is not None and q.grad is not None
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)
    assert plenty.denoiser.state_dict().keys() == low.denoiser.state_dict().keys()


@pytest.mark.parametrize("net", NETS, ids=["unet", "dit"])
def test_blocks_that_are_recomputed_keep_little_inside(net):
    data = open_data("digits", DataOptions(limit=40))
    training = Training(config_of(net, "low"), data)
    low, one = training.denoiser, first(training)
    inside = kept(low, one)
    assert isinstance(low.net, UNet | DiT)
    low.net.recompute = False
    assert inside < kept(low, one) / 3


def test_as_many_examples_at_once_as_the_room_holds():
    data = open_data("digits", DataOptions(limit=40))
    for memory, share in (("plenty", 1), ("low", 2)):
        training, plenty = (Training(config_of(NETS[0], m), data) for m in (memory, "plenty"))
        size, one = kept(plenty.denoiser, first(plenty)), first(training)
        assert examples_at_once(training.denoiser, one, 10 * size) == 10 * share
        assert examples_at_once(training.denoiser, one, 1) == 1
        assert training.denoiser.net.recompute == (memory == "low")


def test_what_is_said_of_an_example_takes_memory_too():
    data = open_data("digits", DataOptions(limit=40, given="edges"))
    alone, told = (
        Training(config_of(NETS[0], "plenty"), d) for d in (replace(data, given=None), data)
    )
    assert kept(told.denoiser, first(told)) > kept(alone.denoiser, first(alone))


def test_an_autoencoder_learns_in_pieces_that_fit(monkeypatch):
    data = open_data(torch.rand(16, 1, 8, 8))
    trainings = []
    for memory, room in (("plenty", 0), ("low", 1)):
        monkeypatch.setattr(examples_at_once, "__defaults__", (room,))
        config = config_of(NetConfig(kind="autoencoder", size=8, depth=1), memory)
        trainings.append(Training(replace(config, data=data.options), data))
        trainings[-1].update()
    plenty, low = trainings
    assert (plenty.micro, low.micro) == (8, 1)
    for p, q in zip(plenty.weights, low.weights, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


def test_what_is_kept_grows_with_the_network_and_leaves_its_weights_out():
    data = open_data("digits", DataOptions(limit=40))
    small, large = (
        kept(training.denoiser, first(training))
        for training in (
            Training(config_of(NetConfig(size=size, depth=1), "plenty"), data) for size in (8, 32)
        )
    )
    assert 2 < large / small < 6  # maps, not 16


def test_the_peak_is_what_was_held_and_is_told_at_the_end():
    before = peak(torch.device("cpu"))
    held = torch.ones(before // 4 + 2**26)  # as many bytes again, and more
    assert peak(torch.device("cpu")) >= held.nbytes
    at_end = progress.Progress(seen=1, budget=1, event="finished", peak=3 * 2**30)
    assert "at most 3.0 GiB" in str(at_end)
    assert "GiB" not in str(replace(at_end, event="checkpoint"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system counts so itself")
def test_the_peak_is_not_that_of_whoever_started_the_process():
    ask = "import torch; from ornstein.train.memory import peak; print(peak(torch.device('cpu')))"
    held = b"-" * (peak(torch.device("cpu")) + 2**29)
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True)
    assert int(found.stdout) < len(held)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_that_is_taken_again_was_kept_meanwhile():
    import resource

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**25)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    given_back = max(faults() for _ in range(4))
    with memory_kept():
        kept = min(faults() for _ in range(8))
    assert 4 * kept < given_back


@pytest.mark.parametrize("who", ["user", "library"])
def test_bounds_of_the_allocator_are_left_alone(monkeypatch, tmp_path, who):
    asked = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: asked.append(name) or 1 / 0)
    if who == "library":  # a process that is not there to train keeps its own
        data = open_data("digits", DataOptions(limit=40)).stored
        config = tiny_config(seen=32)
        train(data, out=tmp_path / "run", config=replace(config, net=NETS[1]))
    else:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
        with memory_kept():
            pass
    assert not asked


@pytest.mark.slow
def test_35_million_weights_learn_64_x_64_pictures_within_4_gib():
    config = recipe(open_data(torch.rand(4, 3, 64, 64), DataOptions(shift=1)), size=104)
    train_ = replace(config.train, memory="low", precision="f32")
    data = open_data(torch.rand(4, 3, 64, 64), config.data)
    training = Training(replace(config, train=train_), data)
    count = sum(p.numel() for p in training.weights)
    parts = [tensor for part in training.parts().values() for tensor in part.values()]
    steady = sum(tensor.nbytes for tensor in parts) + 4 * count  # and the gradient
    one = kept(training.denoiser, first(training))
    assert count > 35e6 and training.micro > 1
    assert steady + training.micro * one + 2**29 < 2**32  # half a gibibyte is PyTorch's
