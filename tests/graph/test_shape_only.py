"""A shape-only run gives the shapes and types of the real one, and fails where the real one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision  # noqa: F401 - registers its operations
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimcnn.graph.copying import shallow_copy
from slimcnn.graph.fast.shape_only import blank, stand_in, values_of, without_values
from slimcnn.graph.operations import known_operations, name_of, operation
from slimcnn.graph.shrinking import shrink


class Both(TorchDispatchMode):
    """Run every operation with values and without, and compare."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = operation(name_of(func))
        if op.values not in ("skipped", "as inputs"):
            return func(*args, **kwargs)
        try:
            real = func(*args, **kwargs)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                stand_in(op, func, args, kwargs)
            self.compared.append(f"{op.name} fails")
            raise
        blanks = stand_in(op, func, args, kwargs)
        pairs = zip(real, blanks, strict=True) if isinstance(real, tuple) else [(real, blanks)]
        for index, (one, other) in enumerate(pairs):
            if index == 0 or op.kind != "norm":  # statistics that nobody reads
                assert (one.shape, one.dtype) == (other.shape, other.dtype), op
        self.compared.append(op.name)
        return real


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, dtype=dtype)


RUNS: list[Callable[[], Any]] = [
    lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1)(image(2, 3, 9, 7)),
    lambda: nn.Conv2d(4, 8, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2, bias=False)(image(1, 4, 9, 7)),
    lambda: nn.Conv2d(4, 8, 3, padding="same")(image(1, 4, 6, 5)),
    lambda: nn.Conv1d(3, 8, 4, stride=3)(image(2, 3, 11)),
    lambda: nn.Conv3d(3, 4, 2, stride=(1, 2, 1))(image(1, 3, 4, 5, 6)),
    lambda: nn.Conv2d(3, 8, 1)(image(3, 5, 5)),
    lambda: nn.Conv2d(3, 8, 1).half()(image(1, 3, 4, 4, dtype=torch.float16)),
    lambda: nn.ConvTranspose2d(3, 8, 3, stride=2, padding=1, output_padding=1)(image(1, 3, 5, 5)),
    lambda: nn.ConvTranspose2d(4, 8, 2, groups=2)(image(2, 4, 3, 3)),
    lambda: nn.BatchNorm2d(5).eval()(image(2, 5, 3, 3)),
    lambda: nn.BatchNorm1d(5, affine=False).eval()(image(2, 5)),
    lambda: nn.LayerNorm(4)(image(2, 3, 4)),
    lambda: nn.LayerNorm((3, 4), elementwise_affine=False)(image(2, 5, 3, 4)),
    lambda: nn.LayerNorm(5)(image(2, 5, 3, 4).permute(0, 2, 3, 1)),
    lambda: nn.LayerNorm(5).half()(image(2, 5, dtype=torch.float16)),
    lambda: nn.GroupNorm(2, 6)(image(2, 6, 3, 3)),
    lambda: nn.GroupNorm(3, 6, affine=False)(image(2, 6)),
    lambda: nn.Linear(4, 3)(image(2, 4)),
    lambda: nn.Linear(4, 3, bias=False)(image(2, 5, 4)),
    lambda: torch.bmm(image(2, 3, 4), image(2, 4, 5)),
    lambda: F.relu(image(2, 3)) + image(3) * 2.0,
    lambda: image(2, 1, 3).add_(image(2, 1, 1)).relu_().mul_(2),
    lambda: torch.cat([image(2, 3, 4), image(2, 5, 4)], 1),
    lambda: torch.cat([image(2, 3), image(0), image(2, 2)], -1),
    lambda: image(2, 3, 4, 5).mean((2, 3), keepdim=True),
    lambda: F.max_pool2d(image(1, 2, 7, 7), 3, 2, 1, ceil_mode=True),
    lambda: F.avg_pool2d(image(1, 2, 7, 7), 2),
    lambda: F.adaptive_avg_pool2d(image(1, 2, 7, 7), (3, 2)),
    lambda: F.interpolate(image(1, 2, 4, 4), scale_factor=2.0, mode="bilinear"),
    lambda: F.gelu(F.silu(F.hardswish(F.leaky_relu(image(2, 3))))).sigmoid().tanh(),
]


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_an_operation_without_values_gives_what_the_real_one_gives(number: int) -> None:
    with torch.no_grad(), Both() as both:
        RUNS[number]()
    assert both.compared


WRONG: list[Callable[[], Any]] = [
    lambda: nn.Conv2d(3, 8, 3)(image(1, 4, 9, 9)),
    lambda: nn.Conv2d(3, 8, 3)(image(1, 3, 2, 9)),
    lambda: F.conv2d(image(1, 4, 5, 5), image(6, 2, 1, 1), groups=4),
    lambda: F.conv2d(image(1, 4, 5, 5), image(6, 4, 1, 1), image(5)),
    lambda: nn.ConvTranspose2d(3, 8, 2)(image(1, 4, 4, 4)),
    lambda: F.conv_transpose2d(image(1, 4, 4, 4), image(4, 2, 1, 1), image(2), groups=2),
    lambda: F.layer_norm(image(2, 5), (4,)),
    lambda: F.layer_norm(image(2, 5), (5,), image(4)),
    lambda: F.layer_norm(image(2, 5), (5,), image(5), image(4)),
    lambda: torch.native_group_norm(image(2, 6, 4), image(5), None, 2, 6, 4, 2, 1e-5),
    lambda: torch.native_group_norm(image(2, 6, 4), None, image(5), 2, 6, 4, 2, 1e-5),
    lambda: torch.native_group_norm(image(2, 6, 4), None, None, 2, 6, 4, 4, 1e-5),
    lambda: F.linear(image(2, 5), image(3, 4)),
    lambda: F.linear(image(2, 4), image(3, 4), image(2)),
    lambda: torch.bmm(image(2, 3, 4), image(2, 5, 5)),
    lambda: image(2, 3) + image(2, 4),
    lambda: image(1, 3).mul_(image(2, 3)),
    lambda: torch.cat([image(2, 3, 4), image(2, 3, 5)], 1),
    lambda: F.max_pool2d(image(1, 2, 1, 1), 3),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_an_operation_without_values_fails_where_the_real_one_fails(number: int) -> None:
    with torch.no_grad(), pytest.raises(RuntimeError), Both() as both:
        WRONG[number]()
    assert both.compared[-1].endswith("fails")


def test_a_batch_norm_without_values_looks_at_its_parameters() -> None:
    """PyTorch's own computation of shapes does not."""
    from torch.ops import aten  # type: ignore[attr-defined]

    x, right, wrong = image(2, 5, 3, 3), torch.ones(5), torch.ones(4)
    for parameters in ((wrong, right, right, right), (right, wrong, right, right), (None, None, wrong, right)):
        with pytest.raises(RuntimeError, match="a batch norm for 4 channels got 5"):
            stand_in(
                operation("native_batch_norm"), aten.native_batch_norm.default, (x, *parameters, False, 0.1, 1e-5), {}
            )


def test_small_stand_ins_are_zero_so_that_a_trace_is_repeatable() -> None:
    assert not blank((63, 64), torch.float32).any()
    assert blank((128, 128, 3), torch.bfloat16).dtype == torch.bfloat16


def test_operations_that_steer_the_program_are_not_run_without_values() -> None:
    x, table = image(2, 3), torch.tensor([0])
    assert values_of(operation("_local_scalar_dense"), (x,), [x]) == "needed"
    assert values_of(operation("linalg_inv_ex"), (x,), [x]) == "needed"
    assert values_of(operation("linalg_vector_norm"), (x,), [x]) == "computed"
    assert values_of(operation("index"), (x, [None, table]), [table]) == "needed"
    assert values_of(operation("index"), (x, [None, table]), [x]) == "computed"
    assert values_of(operation("index"), (x, [x > 0]), [x]) == "needed"
    assert values_of(operation("index_select"), (x, 0, table), [table]) == "needed"
    assert values_of(operation("index_select"), (x, 0, table), [x]) == "computed"
    assert values_of(operation("relu"), (x,), [x]) == "as inputs"


def test_an_operation_that_may_be_skipped_has_outputs_that_can_be_allocated() -> None:
    """Only those with a function of their own, or a meta kernel of PyTorch or torchvision."""
    for op in known_operations():
        if op.values in ("skipped", "as inputs") and op.shape is None:
            namespace, _, name = op.name.rpartition(".")
            overloads = getattr(getattr(torch.ops, namespace or "aten"), name)
            assert any(getattr(overloads, o).has_kernel_for_dispatch_key("Meta") for o in overloads.overloads()), op


def test_a_trial_cut_leaves_large_weights_without_values_and_small_ones_with_theirs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    kept = {"0.weight": {0: torch.arange(40)}, "1.weight": {0: torch.arange(32), 1: torch.arange(40)}}
    unset = without_values(model.named_parameters(), kept)
    assert unset == {"1.weight"}
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    cut = shallow_copy(model)
    shrink(cut, kept, {}, unset)
    assert cut[1].weight.shape == (32, 40, 3, 3)
    assert torch.equal(cut[0].weight, before["0.weight"][:40])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
