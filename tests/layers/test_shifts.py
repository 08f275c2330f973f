"""Every shift layer does what a plain loop does, forwards and backwards, in every way in which it is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from at_hand import mostly_slow
from slimcnn.errors import ModelError
from slimcnn.layers import shifting
from slimcnn.layers.shifting import kernel_of, moves_of, shift
from slimcnn.layers.shifts import (
    ActiveShift,
    AddressShift,
    ChannelShift,
    FixedShift,
    GroupedShift,
    LearnedShift,
    SparseShift,
    grouped_displacements,
)

SIZES = [(7, 7), (5, 8), (2, 3), (1, 1)]


def by_loop(x: np.ndarray, dy: np.ndarray, dx: np.ndarray, stride: int) -> np.ndarray:
    """Bilinear sampling, pixel by pixel, zeros outside; whole numbers are a special case."""
    n, c, h, w = x.shape
    out = np.zeros((n, c, -(-h // stride), -(-w // stride)), x.dtype)
    for k in range(c):
        for y in range(out.shape[2]):
            for z in range(out.shape[3]):
                top, left = np.floor(y * stride + dy[k]), np.floor(z * stride + dx[k])
                down, right = y * stride + dy[k] - top, z * stride + dx[k] - left
                for row, of_row in ((top, 1 - down), (top + 1, down)):
                    for column, of_column in ((left, 1 - right), (left + 1, right)):
                        if 0 <= row < h and 0 <= column < w:
                            out[:, k, y, z] += of_row * of_column * x[:, k, int(row), int(column)]
    return out


def expected(layer: nn.Module, x: Tensor, stride: int) -> np.ndarray:
    dy, dx = (np.asarray(d.detach().double()) for d in (layer.dy, layer.dx))  # type: ignore[union-attr, operator]
    return by_loop(x.detach().numpy(), dy, dx, stride)


@pytest.mark.parametrize("small", [0, 10**9], ids=["in runs", "as a view"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("order", ["interleaved", "blocks"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", mostly_slow([7, 27, 65, 200], (7, 65)))
def test_grouped_shift_is_the_loop_and_its_gradient_the_transposed_loop(
    channels: int, kernel: int, order: str, layout: torch.memory_format, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifting, "SMALL", small)
    monkeypatch.setattr(shifting, "FEWEST_TOGETHER", 4)
    torch.manual_seed(0)
    for stride in (1, 2, 3):
        layer = GroupedShift(channels, kernel, stride, order)  # type: ignore[arg-type]
        for size in SIZES:
            x = torch.randn(2, channels, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
            y = layer(x)
            assert np.array_equal(y.detach().numpy(), expected(layer, x, stride))
            gradient, other = torch.randn_like(y), torch.randn(2, channels, *size, dtype=torch.float64)
            (back,) = torch.autograd.grad(y, x, gradient)
            forth = torch.from_numpy(expected(layer, other, stride))
            assert torch.allclose((back * other).sum(), (gradient * forth).sum(), rtol=0, atol=1e-9)


def test_grouped_displacements_are_those_of_the_authors_code() -> None:
    for channels, kernel in ((64, 3), (130, 5)):
        dy, dx = grouped_displacements(channels, kernel)
        whole = channels // kernel**2 * kernel**2
        for c in range(channels):
            wanted = ((c // kernel) % kernel - kernel // 2, c % kernel - kernel // 2) if c < whole else (0, 0)
            assert (dy[c], dx[c]) == wanted
        blocks = zip(*grouped_displacements(channels, kernel, "blocks"), strict=True)
        assert sorted(blocks) == sorted(zip(dy, dx, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stride", [1, 2])
def test_any_whole_displacements_are_moved_like_the_loop(seed: int, stride: int) -> None:
    torch.manual_seed(seed)
    dy, dx = torch.randint(-3, 4, (2, 90))  # too irregular for slabs: it is a convolution
    assert moves_of(dy.tolist(), dx.tolist()).slabs is None
    x = torch.randn(2, 90, 6, 5, dtype=torch.float64, requires_grad=True)
    y = shift(x, dy, dx, stride)
    assert np.array_equal(y.detach().numpy(), by_loop(x.detach().numpy(), dy.numpy(), dx.numpy(), stride))
    assert torch.autograd.gradcheck(lambda x: shift(x, dy[:9], dx[:9], stride), x[:1, :9].detach().requires_grad_())


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_stride_in_the_shift_is_the_stride_of_the_1x1_behind_it(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    fused = nn.Sequential(GroupedShift(20, 3, stride=2), nn.Conv2d(20, 6, 1)).double()
    plain = nn.Sequential(GroupedShift(20, 3), nn.Conv2d(20, 6, 1, stride=2)).double()
    plain[1].load_state_dict(fused[1].state_dict())
    x = torch.randn(2, 20, *size, dtype=torch.float64)
    ys, gradients = [], []
    for net in (fused, plain):
        z = x.clone().requires_grad_()
        ys.append(net(z))
        gradients += torch.autograd.grad(ys[-1].square().sum(), z)
    assert torch.allclose(*ys, rtol=0, atol=1e-12)
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("small", [0, 10**9], ids=["in runs", "as a convolution"])
@pytest.mark.parametrize("order", ["interleaved", "blocks"])
def test_what_a_cut_leaves_of_a_grouped_shift_moves_like_the_loop(
    order: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifting, "SMALL", small)
    torch.manual_seed(0)
    layer = GroupedShift(90, 3, order=order)  # type: ignore[arg-type]
    kept = torch.randperm(90)[:50].sort().values
    layer.dy, layer.dx = layer.dy[kept], layer.dx[kept]
    for size in SIZES:
        x = torch.randn(2, 50, *size, dtype=torch.float64, requires_grad=True)
        y = layer(x)
        assert np.array_equal(y.detach().numpy(), expected(layer, x, 1))
        gradient, other = torch.randn_like(y), torch.randn_like(x)
        (back,) = torch.autograd.grad(y, x, gradient)
        forth = torch.from_numpy(expected(layer, other, 1))
        assert torch.allclose((back * other).sum(), (gradient * forth).sum(), rtol=0, atol=1e-9)


def test_displacements_that_are_replaced_are_noticed() -> None:
    layer, x = AddressShift(8), torch.randn(1, 8, 4, 4)
    for number in range(20):  # a new tensor may lie where the old one was
        layer.dx = torch.full((8,), number % 3)
        assert np.array_equal(layer(x.double()).numpy(), expected(layer, x.double(), 1))


@pytest.mark.parametrize("kind", [GroupedShift, ActiveShift, SparseShift, AddressShift])
def test_no_channels_are_moved_to_no_channels(kind: type[nn.Module]) -> None:
    layer = kind(0)
    with torch.no_grad():
        assert layer(torch.zeros(2, 0, 5, 5)).shape == (2, 0, 5, 5)


def test_displacements_that_change_in_place_are_noticed() -> None:
    layer, x = AddressShift(8), torch.randn(1, 8, 4, 4)
    layer(x)
    layer.dy.zero_()
    layer.dx.zero_()
    assert torch.equal(layer(x), x)


def test_address_shift_moves_a_quarter_in_each_direction() -> None:
    layer, x = AddressShift(9), torch.randn(2, 9, 4, 5, dtype=torch.float64)
    assert np.array_equal(layer(x).numpy(), expected(layer, x, 1))
    assert sorted(zip(layer.dy.tolist(), layer.dx.tolist(), strict=True)) == [
        *[(-1, 0)] * 2, *[(0, -1)] * 2, (0, 0), *[(0, 1)] * 2, *[(1, 0)] * 2,
    ]  # fmt: skip


def test_channel_shift_goes_round_and_is_undone_by_the_other_groups() -> None:
    x = torch.randn(2, 12, 3, 3)
    assert torch.equal(ChannelShift(3)(x), torch.roll(x, 4, 1))
    assert torch.equal(ChannelShift(3)(ChannelShift(3)(ChannelShift(3)(x))), x)
    with pytest.raises(ModelError, match="12 channels cannot be divided into 5"):
        ChannelShift(5)(x)


def learned(kind: type[LearnedShift], stride: int, values: Tensor) -> LearnedShift:
    options = {"rate": None} if kind is ActiveShift else {"penalty": 0.0}
    layer = kind(values.shape[1], stride, **options).double()  # type: ignore[arg-type]
    layer.dy.data, layer.dx.data = values
    return layer


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_active_shift_is_bilinear_sampling(stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = learned(ActiveShift, stride, 3 * torch.randn(2, 11, dtype=torch.float64))
    x = torch.randn(2, 11, *size, dtype=torch.float64)
    for y in (layer(x), layer(x.requires_grad_())):
        assert np.allclose(y.detach().numpy(), expected(layer, x, stride), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_active_shift_has_the_gradient_of_finite_differences(stride: int) -> None:
    torch.manual_seed(0)
    values = torch.tensor([[0.3, -1.4, 0.2, 2.6, -0.5], [0.3, 0.7, -0.9, -2.2, 1.5]], dtype=torch.float64)
    layer = learned(ActiveShift, stride, values)
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"dy": dy, "dx": dx}, (x,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (x, layer.dy, layer.dx))


@pytest.mark.parametrize("kind", [ActiveShift, SparseShift])
@pytest.mark.parametrize("stride", [1, 2])
def test_at_whole_displacements_all_layers_agree(kind: type[LearnedShift], stride: int) -> None:
    grouped = GroupedShift(27, 3, stride)
    layer = learned(kind, stride, torch.stack([grouped.dy, grouped.dx]).double())
    x = torch.randn(2, 27, 7, 6, dtype=torch.float64)
    ys, gradients = [], []
    for one in (grouped, layer):
        z = x.clone().requires_grad_()
        y = one(z)
        ys.append(y)
        gradients += torch.autograd.grad(y.sin().sum(), z)
    assert torch.allclose(*ys, rtol=0, atol=1e-12)
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_sparse_shift_moves_by_rounded_numbers_and_learns_from_the_real_ones(stride: int) -> None:
    torch.manual_seed(0)
    values = 2 * torch.randn(2, 13, dtype=torch.float64)
    sparse, active = learned(SparseShift, stride, values), learned(ActiveShift, stride, values)
    x = torch.randn(2, 13, 6, 7, dtype=torch.float64)
    moved = [sparse(x), sparse.requires_grad_(False)(x)]
    rounded = by_loop(x.numpy(), values[0].round().numpy(), values[1].round().numpy(), stride)
    for y in moved:
        assert np.array_equal(y.detach().numpy(), rounded)
    sparse.requires_grad_(True)
    weight = torch.randn_like(moved[0])
    of_sparse = torch.autograd.grad((sparse(x) * weight).sum(), (sparse.dy, sparse.dx))
    of_active = torch.autograd.grad((active(x) * weight).sum(), (active.dy, active.dx))
    for mine, theirs in zip(of_sparse, of_active, strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-10)


def test_the_penalty_pulls_displacements_to_zero() -> None:
    layer = SparseShift(6, penalty=0.5)
    layer(torch.zeros(1, 6, 4, 4)).sum().backward()  # of an image of zeros nothing can be learned
    assert torch.equal(layer.dy.grad, 0.5 * layer.dy.detach().sign())  # type: ignore[arg-type]
    assert torch.equal(layer.dx.grad, 0.5 * layer.dx.detach().sign())  # type: ignore[arg-type]


def test_active_shift_learns_by_steps_of_one_length() -> None:
    torch.manual_seed(0)
    layer = ActiveShift(8, rate=0.01)
    (layer(torch.randn(2, 8, 6, 6)) * torch.randn(2, 8, 6, 6)).sum().backward()
    assert torch.allclose(torch.hypot(layer.dy.grad, layer.dx.grad), torch.tensor(0.01))  # type: ignore[arg-type]


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "grouped": lambda: GroupedShift(20, 3),
    "grouped, blocks": lambda: GroupedShift(60, 5, order="blocks"),
    "grouped, stride": lambda: GroupedShift(20, 3, stride=2),
    "active": lambda: ActiveShift(20),
    "sparse": lambda: SparseShift(20),
    "address": lambda: AddressShift(20),
    "channel": lambda: ChannelShift(2),
}


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_it_exports_to_onnx_and_agrees_there(name: str, dynamo: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    layer = LAYERS[name]()
    if isinstance(layer, LearnedShift):
        layer.dy.data.mul_(2.5)
    layer.eval()
    x = torch.randn(1, 60 if name == "grouped, blocks" else 20, 7, 8)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(layer, (x,), str(path), dynamo=dynamo, input_names=["x"], opset_version=18)
    (made,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    assert np.allclose(made, layer(x).detach().numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch, about gradients that nobody asked for
def test_a_compiled_network_is_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(3, 20, 1), GroupedShift(20), nn.Conv2d(20, 20, 1), ActiveShift(20), SparseShift(20))
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(net, backend="aot_eager")
    ys, gradients = [], []
    for run in (net, compiled):
        net.zero_grad()
        y = run(x)
        y.square().sum().backward()
        ys.append(y.detach())
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])  # type: ignore[union-attr]
    assert torch.allclose(*ys)
    assert all(torch.allclose(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    x = torch.randn(2, 20, 6, 6, dtype=dtype)
    assert GroupedShift(20)(x).dtype == dtype
    active = ActiveShift(20)
    with torch.no_grad():
        assert torch.allclose(active(x).float(), active(x.float()), atol=0.05)


def test_kernels_sum_to_one() -> None:
    kernel = kernel_of(torch.randn(30), torch.randn(30), 4)
    assert torch.allclose(kernel.sum((1, 2, 3)), torch.ones(30))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: GroupedShift(9, 2), "kernel=2 is invalid"),
        (lambda: GroupedShift(9, 3, order="sorted"), "choose 'interleaved' or 'blocks'"),  # type: ignore[arg-type]
        (lambda: GroupedShift(9, 3, stride=0), "stride=0 is invalid"),
        (lambda: SparseShift(9, penalty=-1), "penalty=-1 is invalid"),
        (lambda: ChannelShift(1), "groups=1 is invalid"),
        (lambda: GroupedShift(9)(torch.zeros(1, 8, 4, 4)), r"expects images \(n, 9, h, w\), found \(1, 8, 4, 4\)"),
        (lambda: ActiveShift(9)(torch.zeros(9, 4, 4)), r"expects images \(n, 9, h, w\), found \(9, 4, 4\)"),
    ],
)
def test_impossible_things_are_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        make()


def test_a_channel_that_was_cut_takes_its_displacement_along() -> None:
    layer = FixedShift([1, 0, -1], [0, 1, 0])
    assert set(layer.state_dict()) == {"dy", "dx"}
    assert list(layer.parameters()) == []
