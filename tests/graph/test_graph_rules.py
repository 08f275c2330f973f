"""Every family of operations, on networks small enough to know the answer by hand; the law holds on each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced import image, owned, reasons, sizes, traced

from at_hand import Net
from slimcnn.errors import PlanError
from slimcnn.graph import trace
from slimcnn.graph.rules import COMPUTED
from slimcnn.pruning import Plan, prune

Conv = nn.Conv2d
EACH = [[c] for c in range(8)]


def between(*middle: nn.Module, out: int = 8, read: int = 8) -> nn.Sequential:
    """A 1x1 convolution to `out` channels, something, and a 1x1 convolution that reads `read` channels."""
    return nn.Sequential(Conv(3, out, 1), *middle, Conv(read, 5, 1))


# --- weights ---------------------------------------------------------------------------------------------------


def test_a_convolution_owns_its_filter_bias_and_the_column_that_reads_it() -> None:
    graph = traced(between(nn.ReLU()))
    assert owned(graph, "0") == {"0.weight 0": EACH, "0.bias 0": EACH, "2.weight 1": EACH}
    assert [axis.parameter for axis in graph["0"].filters] == ["0.weight"]


def test_batch_norm_goes_with_its_channel() -> None:
    graph = traced(between(nn.BatchNorm2d(8)))
    norm = {f"1.{name} 0": EACH for name in ("weight", "bias", "running_mean", "running_var")}
    assert owned(graph, "0") == {"0.weight 0": EACH, "0.bias 0": EACH, **norm, "2.weight 1": EACH}
    assert [axis.parameter for axis in graph["0"].norms] == ["1.weight"]


def test_batch_norm_without_scale_has_no_norm_to_score() -> None:
    graph = traced(between(nn.BatchNorm2d(8, affine=False)))
    assert graph["0"].norms == ()


def test_batch_norm_without_statistics_normalizes_each_channel_by_itself() -> None:
    assert sizes(traced(between(nn.BatchNorm2d(8, track_running_stats=False)))) == {"0": 8}


def test_instance_norm_normalizes_each_channel_by_itself() -> None:
    graph = traced(between(nn.InstanceNorm2d(8, affine=True)), torch.zeros(2, 3, 8, 8))
    assert sizes(graph) == {"0": 8}


def test_every_group_of_a_grouped_convolution_loses_equally_many_channels_of_its_own() -> None:
    graph = traced(between(Conv(8, 12, 1, groups=2), read=12))
    each = [[c] for c in range(8)]
    assert owned(graph, "0") == {"0.weight 0": each, "0.bias 0": each, "1.weight 1": each}
    assert [part.tolist() for part in graph["0"].parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [part.tolist() for part in graph["1"].parts] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert owned(graph, "1")["2.weight 1"] == [[c] for c in range(12)]


def test_groups_of_a_grouped_convolution_lose_other_channels_each() -> None:
    model = between(Conv(8, 12, 1, groups=2), read=12)
    graph = trace(model, image())
    small = prune(model, graph, Plan(graph.fingerprint, {"0": (0, 1, 6, 7)}))
    weight = model[1].weight
    assert torch.equal(small[1].weight, torch.cat([weight[:6, 2:], weight[6:, :2]]))
    with pytest.raises(PlanError, match="remove equally many of each part"):
        prune(model, graph, Plan(graph.fingerprint, {"0": (0, 1, 2, 7)}))


def test_a_grouped_convolution_with_a_bare_weight_loses_equal_offsets_of_every_group() -> None:
    weight = nn.Parameter(torch.randn(12, 4, 1, 1))
    net = Net(lambda n, x: n.c(F.conv2d(n.a(x), n.w, groups=2)), a=Conv(3, 8, 1), w=weight, c=Conv(12, 5, 1))
    assert owned(traced(net), "a")["a.weight 0"] == [[c, c + 4] for c in range(4)]


def test_depthwise_convolution_passes_its_channel_on() -> None:
    graph = traced(between(Conv(8, 8, 3, groups=8, padding=1)))
    assert owned(graph, "0") == {
        "0.weight 0": EACH, "0.bias 0": EACH, "1.weight 0": EACH, "1.bias 0": EACH, "2.weight 1": EACH,
    }  # fmt: skip
    assert [axis.parameter for axis in graph["0"].filters] == ["0.weight"]


def test_depthwise_convolution_with_multiplier_makes_neighboring_channels() -> None:
    graph = traced(between(Conv(8, 16, 3, groups=8), read=16))
    pairs = [[2 * c, 2 * c + 1] for c in range(8)]
    assert owned(graph, "0")["1.weight 0"] == pairs
    assert owned(graph, "0")["2.weight 1"] == pairs


def test_transposed_convolution_has_its_axes_the_other_way_round() -> None:
    graph = traced(nn.Sequential(Conv(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, stride=2), Conv(6, 5, 1)))
    assert owned(graph, "0")["1.weight 0"] == EACH
    assert owned(graph, "1")["1.weight 1"] == [[c] for c in range(6)]


def test_grouped_transposed_convolution_loses_equal_offsets() -> None:
    graph = traced(nn.Sequential(Conv(3, 8, 1), nn.ConvTranspose2d(8, 12, 2, groups=2), Conv(12, 5, 1)))
    assert owned(graph, "0")["1.weight 0"] == [[c, c + 4] for c in range(4)]
    assert owned(graph, "1")["1.weight 1"] == [[c] for c in range(6)]
    assert owned(graph, "1")["2.weight 1"] == [[c, c + 6] for c in range(6)]


def test_depthwise_transposed_convolution_passes_its_channel_on() -> None:
    graph = traced(between(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)))
    assert owned(graph, "0")["1.weight 0"] == EACH


@pytest.mark.parametrize(("conv", "norm", "shape"), [
    (nn.Conv1d, nn.BatchNorm1d, (1, 3, 8)), (nn.Conv3d, nn.BatchNorm3d, (1, 3, 4, 4, 4)),
])  # fmt: skip
def test_convolutions_have_one_to_three_dimensions_of_space(conv: type, norm: type, shape: tuple[int, ...]) -> None:
    graph = traced(nn.Sequential(conv(3, 8, 1), norm(8), nn.ReLU(), conv(8, 5, 1)), torch.zeros(shape))
    assert owned(graph, "0")["3.weight 1"] == EACH


def test_a_linear_layer_reads_every_pixel_of_a_flattened_channel() -> None:
    graph = traced(nn.Sequential(Conv(3, 4, 1), nn.Flatten(), nn.Linear(4 * 9, 5)), image(size=3))
    assert owned(graph, "0")["2.weight 1"] == [list(range(9 * c, 9 * c + 9)) for c in range(4)]


def test_a_linear_layer_on_the_last_axis_reads_channels_that_were_permuted_there() -> None:
    net = Net(lambda n, x: n.b(n.a(x).permute(0, 2, 3, 1)).mean((1, 2)), a=Conv(3, 8, 1), b=nn.Linear(8, 5))
    assert owned(traced(net), "a") == {"a.weight 0": EACH, "a.bias 0": EACH, "b.weight 1": EACH}


def test_channels_flattened_behind_the_pixels_are_found_too() -> None:
    net = Net(lambda n, x: n.b(n.a(x).permute(0, 2, 3, 1).flatten(1)), a=Conv(3, 4, 1), b=nn.Linear(16, 5))
    graph = traced(net, image(size=2))
    assert owned(graph, "a")["b.weight 1"] == [[c, c + 4, c + 8, c + 12] for c in range(4)]


def test_einsum_contracts_the_axis_that_it_names() -> None:
    net = Net(
        lambda n, x: torch.einsum("nchw,co->nohw", n.a(x), n.w), a=Conv(3, 8, 1), w=nn.Parameter(torch.randn(8, 5))
    )
    assert owned(traced(net), "a")["w 0"] == EACH


def test_a_product_over_pixels_lets_channels_pass() -> None:
    net = Net(lambda n, x: n.b(n.t(n.a(x).flatten(2)).unsqueeze(-1)).flatten(1),
              a=Conv(3, 8, 1), t=nn.Linear(64, 7), b=Conv(8, 5, 1))  # fmt: skip
    assert owned(traced(net), "a") == {"a.weight 0": EACH, "a.bias 0": EACH, "b.weight 1": EACH}


def test_functional_convolution_with_bare_parameters_is_nothing_special() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.relu(F.conv2d(F.relu(F.conv2d(x, n.one)), n.two)), n.three)

    weights = [nn.Parameter(torch.randn(shape)) for shape in ((8, 3, 1, 1), (6, 8, 1, 1), (5, 6, 1, 1))]
    inner = Net(run, one=weights[0], two=weights[1], three=weights[2])
    graph = traced(Net(lambda n, x: n.inner(x), inner=inner))
    assert sizes(graph) == {"inner.one": 8, "inner.two": 6}
    assert owned(graph, "inner.two") == {
        "inner.two 0": [[c] for c in range(6)],
        "inner.three 1": [[c] for c in range(6)],
    }


def test_weights_joined_on_the_way_own_their_part() -> None:
    net = Net(lambda n, x: n.c(F.conv2d(x, torch.cat([n.a.weight, n.b.weight]))),
              a=Conv(3, 4, 1, bias=False), b=Conv(3, 6, 1, bias=False), c=Conv(10, 5, 1))  # fmt: skip
    graph = traced(net)
    assert sizes(graph) == {"a": 4, "b": 6}
    assert owned(graph, "b")["c.weight 1"] == [[c] for c in range(4, 10)]


def test_standardized_weights_lock_what_they_read_and_free_what_they_make() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        weight = n.b.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return n.c(F.relu(F.conv2d(n.a(x), weight)))

    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 6, 1, bias=False), c=Conv(6, 5, 1)))
    assert sizes(graph) == {"b": 6}
    assert "reduced over its channels" in reasons(graph)["a"]


# --- tensors that meet -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("meet", [torch.add, torch.mul, torch.sub, torch.maximum, torch.rsub, torch.atan2])
def test_channels_that_meet_go_together(meet: object) -> None:
    net = Net(lambda n, x: n.c(meet(n.a(x), n.b(x))), a=Conv(3, 8, 1), b=Conv(3, 8, 1), c=Conv(8, 5, 1))  # type: ignore[operator]
    graph = traced(net)
    assert sizes(graph) == {"a": 8}
    assert owned(graph, "a")["b.weight 0"] == EACH


def test_a_squeeze_and_excitation_gate_goes_with_its_channel_and_has_a_width_of_its_own() -> None:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), Conv(8, 4, 1), nn.ReLU(), Conv(4, 8, 1), nn.Sigmoid())
    graph = traced(Net(lambda n, x: n.b((y := n.a(x)) * n.gate(y)), a=Conv(3, 8, 1), gate=gate, b=Conv(8, 5, 1)))
    assert sizes(graph) == {"a": 8, "gate.1": 4}
    assert owned(graph, "a") == {
        "a.weight 0": EACH, "a.bias 0": EACH, "gate.1.weight 1": EACH, "gate.3.weight 0": EACH, "gate.3.bias 0": EACH,
        "b.weight 1": EACH,
    }  # fmt: skip


def test_spatial_attention_from_a_convolution_to_one_channel_changes_nothing() -> None:
    net = Net(lambda n, x: n.b((y := n.a(x)) * n.s(y).sigmoid()), a=Conv(3, 8, 1), s=Conv(8, 1, 1), b=Conv(8, 5, 1))
    assert owned(traced(net), "a") == {"a.weight 0": EACH, "a.bias 0": EACH, "s.weight 1": EACH, "b.weight 1": EACH}


def test_one_parameter_per_channel_goes_with_it() -> None:
    net = Net(
        lambda n, x: n.b(n.a(x) * n.scale), a=Conv(3, 8, 1), scale=nn.Parameter(torch.rand(8, 1, 1)), b=Conv(8, 5, 1)
    )
    assert owned(traced(net), "a")["scale 0"] == EACH


def test_one_number_for_all_channels_changes_nothing() -> None:
    net = Net(
        lambda n, x: n.b(n.a(x) * n.scale + 1), a=Conv(3, 8, 1), scale=nn.Parameter(torch.rand(1)), b=Conv(8, 5, 1)
    )
    assert sizes(traced(net)) == {"a": 8}


def test_prelu_goes_with_its_channel() -> None:
    assert owned(traced(between(nn.PReLU(8))), "0")["1.weight 0"] == EACH


def test_a_learned_position_per_pixel_leaves_channels_free() -> None:
    net = Net(lambda n, x: n.b((n.a(x) + n.place).flatten(1)), a=Conv(3, 8, 1),
              place=nn.Parameter(torch.rand(1, 8, 4, 4)), b=nn.Linear(8 * 16, 5))  # fmt: skip
    graph = traced(net, image(size=4))
    assert owned(graph, "a")["place 1"] == EACH
    assert owned(graph, "a")["b.weight 1"] == [list(range(16 * c, 16 * c + 16)) for c in range(8)]


def test_gated_linear_unit_ties_value_and_gate() -> None:
    graph = traced(between(nn.GLU(1), out=16))
    assert owned(graph, "0")["0.weight 0"] == [[c, c + 8] for c in range(8)]


def test_zeros_like_a_tensor_shrink_with_it() -> None:
    net = Net(
        lambda n, x: n.b(torch.where((y := n.a(x)) > 0, y, torch.zeros_like(y))), a=Conv(3, 8, 1), b=Conv(8, 5, 1)
    )
    assert sizes(traced(net)) == {"a": 8}


def test_constants_of_the_right_size_made_on_the_way_leave_channels_free() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x)
        return n.b(y * torch.full((1, y.shape[1], 1, 1), 0.5) + y.new_ones(y.shape[1], 1, 1))

    assert sizes(traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)))) == {"a": 8}


# --- sharing -----------------------------------------------------------------------------------------------------


def test_a_shared_module_ties_what_it_reads_and_makes() -> None:
    net = Net(lambda n, x: n.c(n.s(n.a(x))) + n.d(n.s(n.b(x))), a=Conv(3, 8, 1), b=Conv(3, 8, 1), s=Conv(8, 6, 1),
              c=Conv(6, 5, 1), d=Conv(6, 5, 1))  # fmt: skip
    graph = traced(net)
    assert sizes(graph) == {"a": 8, "s": 6}
    assert owned(graph, "a")["b.weight 0"] == EACH
    assert owned(graph, "s")["d.weight 1"] == [[c] for c in range(6)]


def test_a_convolution_applied_again_to_its_own_sum_is_cut_on_both_axes() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x)
        for _ in range(3):
            y = y + F.relu(n.again(y))
        return n.b(y)

    graph = traced(Net(run, a=Conv(3, 8, 1), again=Conv(8, 8, 3, padding=1), b=Conv(8, 5, 1)))
    assert sizes(graph) == {"a": 8}
    assert owned(graph, "a")["again.weight 0"] == owned(graph, "a")["again.weight 1"] == EACH


def test_a_shared_batch_norm_ties_the_convolutions_before_it() -> None:
    net = Net(lambda n, x: n.c(n.norm(n.a(x))) + n.d(n.norm(n.b(x))), a=Conv(3, 8, 1), b=Conv(3, 8, 1),
              norm=nn.BatchNorm2d(8), c=Conv(8, 5, 1), d=Conv(8, 5, 1))  # fmt: skip
    assert sizes(traced(net)) == {"a": 8}


def test_tied_weights_are_one_parameter() -> None:
    first, second = Conv(8, 8, 1, bias=False), Conv(8, 8, 1, bias=False)
    second.weight = first.weight
    graph = traced(nn.Sequential(Conv(3, 8, 1), first, nn.ReLU(), second, Conv(8, 5, 1)))
    assert sizes(graph) == {"0": 8}
    assert owned(graph, "0")["1.weight 0"] == owned(graph, "0")["1.weight 1"] == EACH


def test_a_weight_used_both_ways_round_gives_two_groups_of_different_names() -> None:
    net = Net(lambda n, x: n.b(F.relu(F.conv2d(F.relu(F.conv2d(n.a(x), n.w)), n.w.transpose(0, 1)))),
              a=Conv(3, 8, 1), w=nn.Parameter(torch.randn(6, 8, 1, 1)), b=Conv(8, 5, 1))  # fmt: skip
    graph = traced(net)
    assert sizes(graph) == {"a": 8, "w": 6}
    assert owned(graph, "a")["w 1"] == owned(graph, "a")["b.weight 1"] == EACH


def test_spectral_norm_keeps_its_layer_whole_and_its_state_unchanged() -> None:
    net = nn.Sequential(
        Conv(3, 8, 1), nn.utils.parametrizations.spectral_norm(Conv(8, 6, 1)), Conv(6, 8, 1), Conv(8, 5, 1)
    )
    graph = traced(net)
    assert sizes(graph) == {"2": 8}
    assert set(reasons(graph)) == {"0", "1"}


@pytest.mark.parametrize("weight_norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_is_locked_and_told_apart_by_name(weight_norm: object) -> None:
    net = nn.Sequential(Conv(3, 8, 1), nn.ReLU(), weight_norm(Conv(8, 6, 1)), Conv(6, 8, 1), Conv(8, 5, 1))  # type: ignore[operator]
    graph = traced(net)
    assert sizes(graph) == {"3": 8}
    assert reasons(graph)["0"] == reasons(graph)["2"] == {COMPUTED}
