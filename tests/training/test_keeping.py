"""Training keeps the best of its start and all epochs, also after an interruption."""

import pytest
import torch
from training_runs import PLAIN, network, shapes, tensors

from slimcnn.errors import ModelError
from slimcnn.objectives import SparseScales, cross_entropy
from slimcnn.training import Training, evaluate, fit

GOOD = Training(epochs=6, batch_size=32, learning_rate=0.05, **PLAIN)
RUINOUS = Training(epochs=3, batch_size=32, learning_rate=0.1, **PLAIN)


def ruin(model, x, y):
    """Train for wrong answers."""
    return cross_entropy()(model, x, (y + 1) % 4)


@pytest.fixture(scope="module")
def trained():
    model = network()
    list(fit(model, shapes(), training=GOOD))
    return tensors(model)


def loaded(weights):
    model = network()
    model.load_state_dict(weights)
    return model


def top1_of(model):
    data = shapes()
    return evaluate(model, data.validation, data.normalization).top1


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def scripted(monkeypatch):
    """Let validation return given accuracies: the start first, then the epochs."""

    def script(*top1):
        left = iter(top1)
        found = evaluate

        def scored(*arguments, **options):
            result = found(*arguments, **options)
            return type(result)(next(left), result.top5, result.loss, result.n)

        monkeypatch.setattr("slimcnn.training.judging.evaluate", scored)

    return script


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_trained_network_that_no_epoch_improves_is_returned_as_it_was(trained, ema):
    model = loaded(trained)
    *_, last = fit(model, shapes(), training=RUINOUS.model_copy(update={"ema": ema}), objective=ruin)
    assert (last.kept, last.kept_metric) == (0, top1_of(loaded(trained)))
    assert last.validation_metric < last.kept_metric
    assert equal(tensors(model), trained)


def test_the_last_epoch_is_kept_if_asked_for_even_if_it_is_worse(trained):
    model = loaded(trained)
    *_, last = fit(model, shapes(), training=RUINOUS.model_copy(update={"keep": "last"}), objective=ruin)
    assert (last.kept, last.kept_metric) == (last.epoch, last.validation_metric)
    assert top1_of(model) == last.validation_metric < top1_of(loaded(trained))


@pytest.mark.parametrize(
    ("top1", "kept"),
    [((50, 60, 70, 65), 2), ((50, 60, 70, 70), 3), ((80, 60, 70, 70), 0), ((70, 70, 60, 60), 1)],
)
def test_the_best_epoch_is_kept_and_of_equal_ones_the_last(scripted, top1, kept):
    scripted(*top1)
    model, weights = network(), [tensors(network())]
    for epoch in fit(model, shapes(), training=GOOD.model_copy(update={"epochs": 3, "ema": 0.9})):
        weights.append(tensors(model))
        assert epoch.kept_metric == top1[epoch.kept]
    assert epoch.kept == kept
    assert equal(tensors(model), weights[kept])


def test_a_caller_who_stops_keeps_the_weights_of_that_epoch(scripted):
    scripted(90, 10, 10)
    model = network()
    for _ in fit(model, shapes(), training=GOOD):
        weights = tensors(model)
        break
    assert equal(tensors(model), weights)


def test_the_best_weights_survive_an_interruption_at_any_step(trained, tmp_path):
    training = RUINOUS.model_copy(update={"save_every_seconds": 0.0, "ema": 0.9, "learning_rate": 2.0})
    whole = loaded(trained)
    expected = [(e.kept, e.kept_metric, e.loss) for e in fit(whole, shapes(), training=training)]

    model = loaded(trained)
    for at in (1, 6, 9, 13, 20):

        def stop(done, total, at=at):
            if done == at:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            list(fit(loaded(trained), shapes(), training=training, folder=tmp_path, progress=stop))
    found = [(e.kept, e.kept_metric, e.loss) for e in fit(model, shapes(), training=training, folder=tmp_path)]
    assert found == expected
    assert equal(tensors(model), tensors(whole))
    again = network()
    assert all(e.resumed for e in fit(again, shapes(), training=training, folder=tmp_path))
    assert equal(tensors(again), tensors(whole))


def test_a_start_without_finite_scores_is_no_reason_not_to_train(monkeypatch):
    calls = []

    def overflowing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise ModelError("the network's scores are not finite")
        return evaluate(*arguments, **options)

    monkeypatch.setattr("slimcnn.training.judging.evaluate", overflowing)
    *_, last = fit(network(), shapes(), training=GOOD.model_copy(update={"epochs": 2}))
    assert last.kept > 0


def test_an_objective_with_another_purpose_than_the_metric_keeps_the_last_epoch(trained):
    model = loaded(trained)
    objective = SparseScales(ruin, strength=0.01)
    for epoch in fit(model, shapes(), training=RUINOUS, objective=objective):
        weights = tensors(model)
        assert epoch.kept == epoch.epoch
    assert equal(tensors(model), weights)
    assert top1_of(model) < top1_of(loaded(trained))
