"""The features that the last layer reads are found in any network, and their error is in percent of their variance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import slimcnn
from at_hand import Net, randomize
from slimcnn.distillation import LastFeatures, Teacher, features, last_features
from slimcnn.errors import RecipeError
from slimcnn.graph.removal import composed, kept_positions
from slimcnn.objectives import InputOf

SMALL, LARGE = (3, 32, 32), (3, 64, 64)


def applied_relu() -> nn.Module:
    """The network applies a ReLU of its own to the map, and averages over space without a layer."""
    return Net(
        lambda n, x: n.head(torch.relu(n.norm(n.conv(x))).mean(dim=(2, 3))),
        conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), head=nn.Linear(8, 5),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str | InputOf, bool]] = {
    "resnet8": (lambda: slimcnn.build("resnet8", in_channels=3), SMALL, "layer3", False),
    "vgg11": (lambda: slimcnn.build("vgg11", width=0.25), LARGE, "features", False),
    "vgg11, one position": (lambda: slimcnn.build("vgg11", width=0.25), SMALL, InputOf("classifier.0"), False),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, LARGE, "features", False),
    "mobilenet_v3": (torchvision.models.mobilenet_v3_small, LARGE, "classifier.0", False),
    "squeezenet": (torchvision.models.squeezenet1_1, LARGE, "features.12", False),
    "applied relu": (applied_relu, SMALL, "norm", True),
}


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    make, shape, *_ = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    randomize(model)
    return model, torch.randn(8, *shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_the_map_that_the_last_layer_reads_the_mean_of_or_else_its_input(name: str) -> None:
    (model, x), (*_, at, rectified) = prepared(name), NETWORKS[name]
    found = last_features(model, model, x, {})
    assert found is not None
    assert (found.at, found.rectified, found.kept) == (at, rectified, None)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "resnet8"])  # its last map feeds other layers
def test_a_cut_of_nothing_but_these_features_leaves_no_error(name: str) -> None:
    """The network's channels are compared with those of the teacher that they were."""
    model, x = prepared(name)
    graph = slimcnn.trace(model, x[:1])
    head = [layer for layer, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    group, *_ = [one for one in graph.groups if any(axis.parameter == f"{head}.weight" for axis in one.reads)]
    plan = slimcnn.Plan(graph.fingerprint, {group.name: (1, 2, 5)})
    small = slimcnn.prune(model, graph, plan)
    found = last_features(small, model, x, kept_positions(graph, plan.by_index(graph)))
    assert found is not None
    assert found.kept is not None
    assert not {1, 2, 5} & set(found.kept.tolist())
    objective = features(Teacher(model, compared=found))
    assert float(objective(small, x, torch.zeros(8, dtype=torch.int64)).total.detach()) < 1e-6
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.5)
    assert float(objective(small, x, torch.zeros(8, dtype=torch.int64)).total.detach()) > 1


def test_after_two_cuts_the_features_are_compared_with_those_that_they_were() -> None:
    model, x = prepared("mobilenet_v2")
    small, kept = model, {}
    for gone in ((1, 2, 5), (0, 3)):
        graph = slimcnn.trace(small, x[:1])
        group = next(one for one in graph.groups if any(axis.parameter == "classifier.1.weight" for axis in one.reads))
        plan = slimcnn.Plan(graph.fingerprint, {group.name: gone})
        small, both = slimcnn.prune(small, graph, plan), composed(kept, kept_positions(graph, plan.by_index(graph)))
        assert both is not None
        kept = both
    found = last_features(small, model, x, kept)
    assert found is not None
    assert found.kept is not None
    assert found.kept[:3].tolist() == [3, 4, 7]
    objective = features(Teacher(model, compared=found))
    assert float(objective(small, x, torch.zeros(8, dtype=torch.int64)).total.detach()) < 1e-6


def test_without_a_known_cut_different_widths_are_not_compared() -> None:
    whole, small = slimcnn.build("vgg11", width=0.25), slimcnn.build("vgg11", width=0.125)
    assert last_features(small, whole, torch.randn(4, *LARGE), {}) is None


def test_a_teacher_that_does_not_know_which_features_belong_together_is_refused() -> None:
    with pytest.raises(RecipeError, match="not known which features of student and teacher belong together"):
        features(applied_relu())


def test_the_loss_is_the_squared_error_in_percent_of_the_variance() -> None:
    where = LastFeatures("x", rectified=False, kept=torch.tensor([0, 2]), variance=4.0)
    wanted = torch.tensor([[1.0, 50.0, 2.0], [3.0, 50.0, 4.0]])
    found = torch.tensor([[1.0, 4.0], [3.0, 4.0]])  # one of four differs, by 2
    assert float(where.loss(found, wanted)) == pytest.approx(100 * (4 / 4) / 4)


def test_a_relu_of_the_networks_own_hides_what_is_below_zero() -> None:
    where = LastFeatures("x", rectified=True, kept=None, variance=1.0)
    assert float(where.loss(torch.tensor([[-3.0, 1.0]]), torch.tensor([[-1.0, 1.0]]))) == 0
