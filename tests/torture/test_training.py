"""Whole trainings that go wrong: NaN, divergence, no memory, a stop at any look."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ornstein.data.dataset import Dataset
from ornstein.errors import DivergedError
from ornstein.runs.checkpoint import Checkpoint
from ornstein.runs.config import RunConfig
from ornstein.runs.folder import RunFolder
from ornstein.train.guard import Verdict
from ornstein.train.loop import Loop
from ornstein.train.progress import Progress
from ornstein.train.recipes import ahead
from ornstein.train.signals import Stop
from ornstein.train.start import identify
from ornstein.train.training import Training
from train.tiny import Looks, digest, labelled_points, points, tiny_config


def make(path: Path, config: RunConfig, data: Dataset, **options) -> Loop:
    train, held = data.split(0.1, 0)
    training = Training(config, train)
    folder = RunFolder.create(path, config_toml=config.to_toml(), identity=identify(training, held))
    return Loop(training, held, folder, stop=Stop(), **options)


def rows(loop: Loop) -> list[dict]:
    return [
        json.loads(line) for line in (loop.folder.path / "metrics.jsonl").read_text().splitlines()
    ]


def spoil(training: Training, when, factor: float = torch.nan) -> None:
    """Multiply the losses of every update for which `when(training)` holds."""
    loss = training.denoiser.loss

    def spoiled(x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
        return loss(x, t, eps, **cond) * (factor if when(training) else 1.0)

    training.denoiser.loss = spoiled


def test_one_bad_batch_is_skipped_counted_and_logged_with_its_examples(memory_path):
    heard: list[Progress] = []
    loop = make(memory_path / "run", tiny_config(), points(), report=heard.append)
    spoil(loop.training, lambda t: t.seen == 96)
    loop.run()
    (event,) = [r for r in rows(loop) if r.get("event") == "skipped"]
    expected = loop.training.data.order(0, range(96, 128))
    assert event["ids"] == [loop.training.data.ids[i] for i in expected.tolist()]
    assert heard[-1].skipped == 1 and heard[-1].event == "finished"
    latest = loop.folder.latest()
    assert latest is not None and latest.state["guard"]["skipped"] == 1
    for part in loop.training.parts():
        assert all(v.isfinite().all() for v in latest.load(part).values())


def test_three_bad_batches_roll_back_once_with_half_the_learning_rate(memory_path):
    loop = make(memory_path / "run", tiny_config(), points(), save_every=0.0)
    t = loop.training
    spoil(t, lambda t: not t.halvings and t.seen >= 160)  # better with half the rate
    loop.run()
    log = rows(loop)
    (back,) = [r for r in log if r.get("event") == "rolled back"]
    assert back["from"] == 256 and back["seen"] == 160
    assert t.halvings == 1 and t.seen == 640
    assert [r["seen"] for r in log if "train/loss" in r] == list(range(32, 641, 32))
    whole = Training(t.config, t.data)
    whole.seen = 640 - 32
    t.seen = 640 - 32
    assert t.learning_rate == pytest.approx(whole.learning_rate / 2)


def test_bad_batches_without_end_stop_with_the_examples_named(memory_path):
    loop = make(memory_path / "run", tiny_config(), points(), save_every=0.0)
    spoil(loop.training, lambda t: t.seen >= 160)
    with pytest.raises(DivergedError, match="not finite, also with half") as caught:
        loop.run()
    assert caught.value.exit_code == 5
    assert loop.training.data.ids[int(loop.training.indices[0])] in str(caught.value)
    latest = loop.folder.latest()
    assert latest is not None and latest.seen == 160
    for part in loop.training.parts():
        assert all(v.isfinite().all() for v in latest.load(part).values())
    assert [r["event"] for r in rows(loop) if "event" in r] == [
        "rolled back",  # what was logged after that checkpoint is rewound with it
        "skipped",
        "skipped",
        "diverged",
    ]


def test_losses_that_stay_large_roll_back_and_then_stop(memory_path):
    config = tiny_config(seen=32 * 800)
    loop = make(memory_path / "run", config, points())
    spoil(loop.training, lambda t: t.seen >= 32 * 100, factor=50.0)
    with pytest.raises(DivergedError, match="five times its smallest median for 200 updates"):
        loop.run()
    events = [(r["event"], r["seen"]) for r in rows(loop) if "event" in r]
    assert events == [("rolled back", 0), ("diverged", 32 * 300)]


def test_a_thousand_times_the_learning_rate_is_named(memory_path):
    """Behind norms, weights that are thrown about need not diverge: then the doctor says it."""
    heard: list[Progress] = []
    config = tiny_config(seen=32 * 400, learning_rate=3.0)
    loop = make(memory_path / "run", config, points(), report=heard.append)
    try:
        loop.run()
    except DivergedError as error:
        assert "learning_rate = 3" in str(error)
    else:
        assert "the learning rate 3 is too high" in heard[-1].verdict


def test_no_checkpoint_is_made_of_weights_one_would_not_go_back_to(memory_path):
    loop = make(memory_path / "run", tiny_config(), points(), save_every=0.0)
    saved: list[int] = []
    save = loop.folder.save

    def remembered(seen: int, *arguments: Any, **more: Any) -> Checkpoint:
        saved.append(seen)
        return save(seen, *arguments, **more)

    loop.folder.save = remembered
    spoil(loop.training, lambda t: t.seen in (96, 128))
    loop.run()
    assert 128 not in saved and 160 not in saved
    assert {96, 192, 640} <= set(saved)


def go_on(loop: Loop, data: Dataset) -> Loop:
    """The same training, from its newest checkpoint."""
    training = Training(loop.training.config, loop.training.data)
    latest = loop.folder.latest()
    assert latest is not None
    training.restore(latest)
    loop.folder.rewind(latest)
    return Loop(training, data.split(0.1, 0)[1], loop.folder, stop=Stop(), saved_seen=latest.seen)


@pytest.mark.parametrize(("factor", "stops"), [(50.0, (1600, 2400)), (torch.nan, (992,))])
def test_a_training_stopped_while_it_goes_wrong_goes_back_as_one_that_was_not(
    factor, stops, memory_path
):
    """To before, however often; and no checkpoint stays of what it has gone back from."""

    def hurt(loop: Loop, stop: int = -1) -> Loop:
        spoil(loop.training, lambda t: t.seen >= 960 and not t.halvings, factor)
        update = loop.training.update

        def updated() -> Verdict:
            verdict = update()
            if loop.training.seen == stop:
                loop.stop.set()
            return verdict

        loop.training.update = updated
        return loop

    config, data = tiny_config(seen=32 * 260), points()
    whole = hurt(make(memory_path / "whole", config, data))
    whole.run()
    loop = hurt(make(memory_path / "stopped", config, data), stops[0])
    loop.run()
    for stop in (*stops[1:], -1):
        loop = hurt(go_on(loop, data), stop)
        loop.run()
    assert whole.training.halvings == 1
    assert digest(loop.training) == digest(whole.training)
    assert loop.folder.metrics_path.read_text() == whole.folder.metrics_path.read_text()
    assert loop.folder.saved() == [config.train.seen, 0]


def test_running_out_of_memory_in_the_middle_changes_nothing_but_rounding(memory_path):
    def run(name: str, limit: int) -> Loop:
        loop = make(memory_path / name, tiny_config(), points())
        loss = loop.training.denoiser.loss

        def full(x: Tensor, t: Tensor, eps: Tensor, **cond: Tensor) -> Tensor:
            if len(x) > limit and loop.training.seen >= 320:
                raise torch.OutOfMemoryError("patched")
            return loss(x, t, eps, **cond)

        loop.training.denoiser.loss = full
        loop.run()
        return loop

    whole, split = run("whole", 100), run("split", 8)
    assert split.training.micro == 8
    for a, b in zip(rows(whole), rows(split), strict=True):
        assert a["train/order"] == b["train/order"]
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)


def test_a_stop_at_any_look_leaves_a_checkpoint_of_that_moment_and_no_trace(memory_path):
    """In data, updates, validation, examination, preview, saving: wherever the flag is read."""
    whole = make(memory_path / "whole", tiny_config(seen=320), labelled_points())
    whole.run()
    log = (memory_path / "whole" / "metrics.jsonl").read_text()
    stops = 0
    for n in range(0, 130, 5):
        path = memory_path / str(n)
        loop = make(path, tiny_config(seen=320), labelled_points())
        loop.stop = Looks(n)
        loop.run()
        again = Training(loop.training.config, loop.training.data)
        latest = loop.folder.latest()
        assert latest is not None and latest.seen == loop.training.seen
        stops += latest.seen < 320
        again.restore(latest)
        loop.folder.rewind(latest)
        _, held = labelled_points().split(0.1, 0)
        Loop(again, held, loop.folder, stop=Stop(), saved_seen=latest.seen).run()
        assert digest(again) == digest(whole.training)
        assert (path / "metrics.jsonl").read_text() == log
    assert stops > 15


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(rank: int, port: int, out: str, config: str, resume: bool, stop_at: int) -> None:
    import os

    from ornstein.train.start import train

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    stop = Looks(stop_at) if rank == 1 else Stop()  # told to one, obeyed by both
    if resume:
        train(out=out, resume=True, stop=stop)
    else:
        train("swiss-roll", out=out, config=RunConfig.from_toml(config), stop=stop)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["", "mean-flow"])
def test_two_processes_train_what_one_does_and_resume_exactly(memory_path, children, method):
    """Also where a Jacobian product goes past what would watch the gradients."""
    config = tiny_config(seen=32 * 40, optimizer="muon", batch=32)
    config = ahead(config, method) if method else config

    def both(out: Path, resume: bool = False, stop_at: int = 10**9) -> None:
        port = free_port()
        arguments = [(r, port, str(out), config.to_toml(), resume, stop_at) for r in range(2)]
        processes = [children.Process(target=worker, args=a) for a in arguments]
        for p in processes:
            p.start()
        for p in processes:
            p.join(60)
            assert p.exitcode == 0

    both(memory_path / "two")
    both(memory_path / "again", stop_at=17)
    stopped = RunFolder.open(memory_path / "again").latest()
    assert stopped is not None and 0 < stopped.seen < config.train.seen
    both(memory_path / "again", resume=True)

    one = make(memory_path / "one", replace(config, data=points().options), points())
    one.run()
    logs = [
        [json.loads(r) for r in (memory_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two", "again")
    ]
    for a, b, c in zip(*logs, strict=True):
        assert a["train/order"] == b["train/order"]
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)
        assert b == c
    ends = [RunFolder.open(memory_path / n).latest() for n in ("two", "again")]
    for part in ("model", "ema-0", "ema-1", "optimizer"):
        two, again = (e.load(part) for e in ends)
        assert all(torch.equal(two[k], again[k]) for k in two)
