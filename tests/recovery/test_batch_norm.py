import math

import pytest
import torch
from torch import nn

from slimcnn.errors import DataError, ModelError
from slimcnn.recovery import recalibrate


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)
    )


@pytest.mark.parametrize("cuts", [[64], [32, 32], [30, 30, 4], [1] * 64])
def test_one_layer_gets_mean_and_variance_of_all_images_however_they_are_cut(cuts):
    images = torch.randn(64, 3, 5, 7) * torch.tensor([0.1, 1.0, 50.0]).view(1, 3, 1, 1) + 100
    layer = nn.BatchNorm2d(3)
    assert recalibrate(layer, images.split(cuts)) == 1
    values = images.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_var.double(), values.var(1), rtol=1e-4, atol=0)
    assert layer.num_batches_tracked == len(cuts)


def test_for_one_batch_it_is_pytorchs_own_estimate():
    """One batch in train mode with momentum 1 and dropout off is the same thing, two layers deep."""
    images = torch.randn(32, 3, 9, 9)
    ours, oracle = network(), network()
    oracle.load_state_dict(ours.state_dict())
    assert recalibrate(ours, [images]) == 2
    oracle[3].eval()
    for layer in (oracle[1], oracle[5]):
        layer.momentum = 1.0
    oracle(images)
    for name, tensor in oracle.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, msg=name)


def test_old_statistics_have_no_say():
    images = torch.randn(32, 3, 9, 9).split(8)
    a, b = network(), network()
    b.load_state_dict(a.state_dict())
    b[1].running_mean += 100
    b[5].running_var *= 1000
    recalibrate(a, images)
    recalibrate(b, images)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training):
    model = network().train(training)
    model[1].momentum = None
    model[3].train()
    modes = [m.training for m in model.modules()]
    weights = [p.clone() for p in model.parameters()]
    recalibrate(model, [(torch.randn(8, 3, 9, 9), torch.zeros(8))])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert (model[1].momentum, model[5].momentum) == (None, 0.1)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_dropout_is_off():
    images = [torch.randn(8, 3, 9, 9)]
    results = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model = network()
        torch.manual_seed(seed)
        recalibrate(model, images)
        results.append(model[5].running_var.clone())
    assert torch.equal(*results)


def test_a_layer_used_twice_sees_all_its_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(1, affine=False)

        def forward(self, x):
            return self.bn(x) + self.bn(10 + 0 * x)

    model = Twice()
    assert recalibrate(model, [torch.zeros(2, 1, 2, 2)]) == 1
    assert model.bn.running_mean.item() == 5
    assert model.bn.running_var.item() == pytest.approx(25 * 16 / 15)


def test_networks_without_running_statistics_have_nothing_to_recalibrate():
    assert recalibrate(nn.Conv2d(3, 4, 1), [torch.zeros(1, 3, 2, 2)]) == 0
    assert recalibrate(nn.BatchNorm2d(3, track_running_stats=False), []) == 0


def test_a_layer_that_no_image_reaches_keeps_its_statistics():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
            self.unused.running_mean.fill_(3)

        def forward(self, x):
            return self.used(x)

    model = Unused()
    assert recalibrate(model, [torch.ones(4, 1, 2, 2)]) == 1
    assert (model.used.running_mean.item(), model.unused.running_mean.item()) == (1, 3)
    assert model.unused.num_batches_tracked == 0


def bad_weights(model: nn.Sequential) -> None:
    model[4].weight.data[0, 0, 0, 0] = math.inf


@pytest.mark.parametrize(
    ("batches", "damage", "error", "message"),
    [
        ([torch.full((4, 3, 9, 9), math.nan)], None, DataError, "batch 0 .* 972 values that are not finite"),
        ([torch.randn(4, 3, 9, 9), torch.full((1, 3, 9, 9), math.inf)], None, DataError, "batch 1 .* not finite"),
        ([], None, DataError, "at least one batch"),
        ([torch.randn(4, 3, 9, 9), torch.randn(4, 2, 9, 9)], None, DataError, r"batch 1 \(4, 2, 9, 9\)"),
        ([torch.randn(1, 3, 5, 5)], None, DataError, "more than 1 value per channel"),
        ([torch.randn(4, 3, 9, 9)], bad_weights, ModelError, "4 channels receives values that are not finite"),
    ],
)
def test_on_an_error_the_statistics_are_as_before(batches, damage, error, message):
    model = network()
    model(torch.randn(16, 3, 9, 9))
    if damage:
        damage(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=message) as caught:
        recalibrate(model, batches)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
