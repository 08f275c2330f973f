import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import network, shapes

from slimcnn.datasets import Images, Normalization
from slimcnn.errors import DataError, ModelError
from slimcnn.training import evaluate

UNIT = Normalization(mean=(0.0,), std=(1 / 255,))


def pictures(*rows: list[int], labels: list[int]) -> Images:
    """Images whose pixels are the scores that `nn.Flatten` answers with."""
    return Images(torch.tensor(rows, dtype=torch.uint8)[:, None, None], torch.tensor(labels))


def test_counts_by_hand():
    images = pictures(
        [9, 0, 0, 0, 0, 0, 1],  # right
        [9, 8, 7, 6, 5, 4, 3],  # 4: fifth
        [9, 8, 7, 6, 5, 4, 3],  # 5: sixth
        [1, 2, 9, 0, 0, 0, 0],  # 1: second
        labels=[0, 4, 5, 1],
    )
    found = evaluate(nn.Flatten(), images, UNIT, batch_size=3)
    assert (found.top1, found.top5, found.n) == (25, 75, 4)
    expected = F.cross_entropy(images.pixels.flatten(1).double(), images.labels).item()
    assert found.loss == pytest.approx(expected, rel=1e-6)


def test_fewer_than_five_classes_are_all_among_the_five():
    found = evaluate(nn.Flatten(), pictures([1, 2], [2, 1], labels=[0, 0]), UNIT)
    assert (found.top1, found.top5) == (50, 100)


def test_the_batch_size_does_not_matter():
    data = shapes()
    results = [evaluate(network(), data.validation, data.normalization, batch_size=size) for size in (1, 7, 256)]
    for result in results[1:]:
        assert (result.top1, result.n) == (results[0].top1, 61)
        assert result.loss == pytest.approx(results[0].loss)


def test_modes_and_statistics_stay():
    model, data = network(), shapes()
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    evaluate(model, data.validation, data.normalization)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_modes_are_restored_after_an_error():
    model = nn.Sequential(nn.Conv2d(5, 1, 1), nn.Dropout())
    with pytest.raises(ModelError, match=r"does not accept images \(61, 2, 8, 8\)"):
        evaluate(model, shapes().validation, shapes().normalization)
    assert model.training
    assert model[1].training


def test_scores_that_are_not_finite_are_counted_not_ranked():
    model = network()
    model[6].weight.data[2, 5] = math.nan
    with pytest.raises(ModelError, match="not finite for 61 of 61 images"):
        evaluate(model, shapes().validation, shapes().normalization)


def test_no_images_and_too_few_classes_are_refused():
    nothing = Images(torch.zeros(0, 1, 1, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no images"):
        evaluate(nn.Flatten(), nothing, UNIT)
    with pytest.raises(ModelError, match="has 2 outputs, but the labels have 6 classes"):
        evaluate(nn.Flatten(), pictures([1, 2], labels=[5]), UNIT)


@pytest.mark.parametrize("output", [lambda x: (x,), lambda x: {"logits": x}, lambda x: x, lambda x: x.flatten(1)[:1]])
def test_an_answer_that_is_no_classifiers_is_refused(output):
    class Odd(nn.Module):
        def forward(self, x):
            return output(x)

    with pytest.raises(ModelError, match="a classifier returns"):
        evaluate(Odd(), shapes().validation, shapes().normalization)
