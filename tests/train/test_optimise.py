"""The learning rate as a function of the clock; Muon; optimiser states that come back."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from ornstein.nets import Conditions, UNet
from ornstein.runs.config import TrainConfig
from ornstein.train.optimise import (
    Muon,
    Optimizer,
    batches,
    build_optimizers,
    learning_rate,
    orthogonal,
    restore,
    tensors_of,
)


@pytest.mark.parametrize("decay", ["cosine", "linear", "none"])
def test_learning_rate_rises_to_its_peak_and_falls_to_zero(decay):
    config = TrainConfig(seen=1000, learning_rate=0.5, warmup=0.1, decay=decay)
    assert learning_rate(0, config) == 0
    assert learning_rate(50, config) == pytest.approx(0.25)
    assert learning_rate(100, config) == pytest.approx(0.5)
    assert learning_rate(550, config) == pytest.approx(0.5 if decay == "none" else 0.25)
    assert learning_rate(1000, config) == pytest.approx(0.5 if decay == "none" else 0, abs=1e-12)


def test_learning_rate_depends_on_the_share_of_the_budget_alone():
    short = TrainConfig(seen=100, warmup=0.3)
    long = TrainConfig(seen=100_000, warmup=0.3)
    for part in (0.1, 0.3, 0.7):
        assert learning_rate(100 * part, short) == pytest.approx(
            learning_rate(100_000 * part, long), rel=1e-12
        )


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_learning_rate_without_warmup_or_with_nothing_else(warmup):
    config = TrainConfig(seen=100, learning_rate=1.0, warmup=warmup, decay="linear")
    assert learning_rate(50, config) == pytest.approx(0.5)


def orthogonalise(G):
    return orthogonal([G])[0]


def test_batches_of_as_many_rows_do_not_change_each_other():
    draw = torch.Generator().manual_seed(0)
    shapes = ((3, 16, 40), (2, 8, 30), (1, 16, 16))
    stacks = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    for together, alone in zip(orthogonal(stacks), map(orthogonalise, stacks), strict=True):
        torch.testing.assert_close(together, alone)
    assert orthogonal([]) == []


def test_batches_multiplied_in_different_dtypes_keep_them():
    draw = torch.Generator().manual_seed(0)
    rough, fine = (
        torch.randn(2, 16, 40, generator=draw).bfloat16(),
        torch.randn(1, 16, 30, generator=draw),
    )
    found = orthogonal([rough, fine])
    assert [moves.dtype for moves in found] == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(found[1], orthogonalise(fine), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 17, 40), (2, 32, 32)])
def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values(shape, dtype):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    inner = U.mT @ orthogonalise(G.to(dtype)).float() @ Vh.mT  # diagonal, if the vectors are kept
    values = inner.diagonal(dim1=1, dim2=2)
    # what is below 0.01 of the divisor rises only part of the way, in bfloat16 what is below 0.04
    large = (0.05 if dtype.itemsize == 2 else 0.0125) * S.pow(4).sum(1, keepdim=True) ** 0.25 < S
    assert values[large].min() > 0.6 and values.max() < 1.2
    assert (inner - torch.diag_embed(values)).abs().max() < (0.1 if dtype.itemsize == 2 else 1e-4)


def test_orthogonalise_is_three_polynomials_of_each_singular_value():
    G = torch.randn(1, 12, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / S.pow(4).sum(1, keepdim=True) ** 0.25
    rounds = ((7.9347, -22.2581, 15.8015), (3.5653, -2.5649, 0.4860), (2.3482, -1.6768, 0.3689))
    for a, b, c in rounds:
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalise(G), U * s[:, None] @ Vh)


def test_orthogonalise_stays_in_bounds_where_one_direction_is_all_there_is():
    draw = torch.Generator().manual_seed(0)
    for rank in (0, 1, 2):
        left, right = torch.randn(64, rank, generator=draw), torch.randn(rank, 576, generator=draw)
        G = 1e-4 * (left @ right)[None].bfloat16()
        assert torch.linalg.svdvals(orthogonalise(G).float()).max() < 1.2


@pytest.mark.parametrize("rows", [16, 64, 256])
def test_orthogonalise_makes_no_direction_large_of_what_rounding_leaves(rows):
    columns, draw = 9 * rows, torch.Generator().manual_seed(0)
    U, _ = torch.linalg.qr(torch.randn(rows, rows, generator=draw))
    V, _ = torch.linalg.qr(torch.randn(columns, rows, generator=draw))
    falling = 1 / torch.arange(1, rows + 1.0)
    alone = torch.where(falling < 1, 0.01, 1.0)
    for S in (falling, falling**2, falling**4, alone):
        moves = orthogonalise(((U * S) @ V.T)[None].bfloat16())[0].float()
        assert torch.linalg.svdvals(moves).max() < 1.7
        assert (U.T @ moves @ V).diagonal()[S > 0.05].min() > 0.6  # none is turned round


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 64])
def test_orthogonalise_makes_little_of_next_to_nothing(rank, dtype):
    """As what a layer remembers that has long had no gradient: at 1e-12 it went to infinity."""
    draw = torch.Generator().manual_seed(0)
    G = torch.randn(1, 64, rank, generator=draw) @ torch.randn(1, rank, 576, generator=draw)
    G /= G.norm()
    most = [
        torch.linalg.matrix_norm(orthogonalise((10.0**-k * G).to(dtype)).float(), 2).item()
        for k in range(40)
    ]
    assert min(most[:7]) > 0.8 and max(most[12:]) < 1e-3
    assert max(most) < 1.3  # what is 1.14 in float32 rounds to so much


def test_muon_of_a_convolution_is_muon_of_its_matrix_in_any_memory_format():
    torch.manual_seed(0)
    p, grad = torch.randn(8, 3, 2, 5), torch.randn(8, 3, 2, 5)
    grads = (grad, grad.contiguous(memory_format=torch.channels_last), grad.flatten(1))
    moved = list[torch.Tensor]()
    for g in grads:
        weight = nn.Parameter(p.clone().view(g.shape))
        weight.grad = g
        Muon({"p": weight}, 0.1).step(0.1)
        moved.append(weight.detach().view(p.shape))
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[0], moved[2])
    assert not torch.equal(moved[0], p)


def test_muon_moves_weights_by_about_as_much_as_adam():
    p = nn.Parameter(torch.zeros(64, 128))
    p.grad = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    Muon({"p": p}, 0.0).step(0.1)
    size = p.detach().square().mean().sqrt().item()
    assert 0.1 * 0.2 * 0.8 < size < 0.1 * 0.2 * 1.2


def test_muon_of_a_batch_is_muon_of_each_whatever_their_shapes():
    torch.manual_seed(0)
    shapes = [(16, 4, 3, 3), (16, 4, 3, 3), (16, 30), (40, 16), (9, 35)]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    single = [nn.Parameter(p.detach().clone()) for p in params]
    together = Muon({str(i): p for i, p in enumerate(params)}, 0.1)
    apart = [Muon({"p": p}, 0.1) for p in single]
    assert len(together.batches) == 1  # of which the tall one, laid on its side, is the largest
    for _ in range(3):
        for p, q in zip(params, single, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in (together, *apart):
            optimizer.step(0.1)
    for p, q in zip(params, single, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


def test_what_would_be_filled_up_by_too_many_zeros_has_a_batch_of_its_own():
    shapes = {"a": (64, 576), "b": (64, 576), "c": (64, 64), "d": (32, 864), "e": (18, 32)}
    assert batches(shapes) == [["a", "b"], ["d"], ["c", "e"]]
    assert batches({"a": (64, 288), "b": (64, 128), "c": (8, 300)}) == [["a", "b"], ["c"]]


def unet() -> nn.Module:
    torch.manual_seed(0)
    return UNet((1, 8, 8), size=8, depth=1, conditions=Conditions(classes=3))


def steps(module: nn.Module, optimizers: list[Optimizer], seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(
                memory_format=torch.preserve_format
            )
        for optimizer in optimizers:
            optimizer.step(1e-2)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_restored_optimisers_continue_bit_for_bit(name):
    config = TrainConfig(optimizer=name, weight_decay=0.1)
    first = unet()
    optimizers = build_optimizers(first, config)
    steps(first, optimizers, range(3))
    second = unet()
    second.load_state_dict(first.state_dict())
    again = build_optimizers(second, config)
    stored = {k: v.clone().contiguous() for k, v in tensors_of(optimizers).items()}
    restore(again, stored)
    steps(first, optimizers, range(3, 6))
    steps(second, again, range(3, 6))
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
    a, b = tensors_of(optimizers), tensors_of(again)
    assert a.keys() == b.keys() == stored.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_muon_is_for_what_the_points_of_a_picture_go_through():
    muon, *_ = build_optimizers(unet(), TrainConfig(optimizer="muon"))
    assert isinstance(muon, Muon) and any("first" in name for name in muon.weights)
    assert not any("modulation" in name or "inputs" in name for name in muon.weights)


def test_muon_is_for_what_the_pieces_of_a_text_go_through():
    torch.manual_seed(0)
    net = UNet((1, 8, 8), size=8, depth=1, conditions=Conditions(words=5, length=4))
    muon, *_ = build_optimizers(net, TrainConfig(optimizer="muon"))
    assert any("text.attend" in name for name in muon.weights)
    assert not any("word" in name or "inputs.out" in name for name in muon.weights)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_has_one_optimiser_and_embeddings_are_no_matrices(name):
    module = unet()
    optimizers = build_optimizers(module, TrainConfig(optimizer=name, weight_decay=0.1))
    held = [id(p) for o in optimizers for p in o.weights.values()]
    assert sorted(held) == sorted(id(p) for p in module.parameters())
    decayed = {id(p) for o in optimizers for p in o.weights.values() if o.weight_decay}
    label = next(m.weight for m in module.modules() if isinstance(m, nn.Embedding))
    assert id(label) not in decayed
    assert all(p.ndim >= 2 for p in module.parameters() if id(p) in decayed)
    assert decayed


def test_adamw_is_pytorchs():
    ours, theirs = unet(), unet()
    optimizers = build_optimizers(ours, TrainConfig(weight_decay=0.1))
    decayed = [p for o in optimizers if o.weight_decay for p in o.weights.values()]
    names = {id(p): name for name, p in ours.named_parameters()}
    same = dict(theirs.named_parameters())
    matrices = [same[names[id(p)]] for p in decayed]
    rest = [p for p in theirs.parameters() if not any(p is q for q in matrices)]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.99),
    )
    for seed in range(3):
        steps(ours, optimizers, range(seed, seed + 1))
        steps(theirs, [], range(seed, seed + 1))
        reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_building_the_optimisers_does_not_import_the_compiler():
    code = (
        "import sys, torch; from ornstein.train.optimise import *; from torch import nn;"
        "module = nn.Linear(8, 8); optimizers = build_optimizers(module, TrainConfig());"
        "module(torch.ones(1, 8)).sum().backward(); [o.step(0.1) for o in optimizers];"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
