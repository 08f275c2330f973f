"""Terms add up to an objective, by Python and by name; teachers cost one run a batch and learn nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Augmentation, batches, indices, load_dataset
from slimcnn.distillation import Teacher, attention, kd, kd_loss, last_features, losses, objective_named, scale_factor
from slimcnn.distillation.scale_factor import class_factor_loss, class_factors
from slimcnn.distillation.terms import features_compared
from slimcnn.errors import ModelError, RecipeError, RunError, UnknownName
from slimcnn.graph.removal import kept_positions
from slimcnn.objectives import cross_entropy
from slimcnn.training import Epoch, Training


def networks() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = (slimcnn.build("resnet8", width=width) for width in (0.5, 1.0))
    return student, teacher, torch.randn(6, 1, 8, 8), torch.randint(10, (6,))


ON_FEATURES = ("attention", "features", "fitnet", "rkd")
ON_LOGITS = [entry.name for entry in losses if entry.name not in ON_FEATURES]


def on_layer3(name: str) -> str:
    return f"{name}:layer=layer3" if name in ON_FEATURES and name != "features" else name


class Counting(nn.Module):
    """Counts how often it runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)


def test_terms_add_up_with_their_weights_and_share_a_teachers_answer() -> None:
    student, network, x, y = networks()
    teacher = Teacher(Counting(network))
    loss = (cross_entropy() + 0.9 * kd(teacher) + 0.5 * scale_factor(teacher))(student, x, y)
    assert list(loss.terms) == ["cross_entropy", "kd", "scale_factor"]
    assert int(teacher.networks[0].calls) == 1
    logits = student(x)
    with torch.no_grad():
        answer = network.eval()(x)
    torch.testing.assert_close(loss.terms["kd"], 0.9 * kd_loss(logits, answer, 4.0))
    torch.testing.assert_close(loss.total, sum(loss.terms.values()))


def test_without_the_scale_factor_it_is_plain_distillation_bit_for_bit() -> None:
    student, teacher, x, y = networks()
    taught = Teacher(teacher)
    plain = (0.1 * cross_entropy() + 0.9 * kd(taught))(student, x, y)
    other = (0.1 * cross_entropy() + 0.9 * kd(taught) + 0.0 * scale_factor(taught))(student, x, y)
    assert torch.equal(plain.total, other.total)
    gradients = [torch.autograd.grad(loss.total, student.conv1.weight, retain_graph=True)[0] for loss in (plain, other)]
    assert torch.equal(*gradients)


def test_the_gradient_of_each_term_is_measured_at_the_logits() -> None:
    student, teacher, x, y = networks()
    loss = (cross_entropy() + kd(teacher))(student, x, y)
    (expected,) = torch.autograd.grad(loss.terms["kd"], loss.logits, retain_graph=True)
    torch.testing.assert_close(loss.gradients["kd"], expected.abs().sum())
    assert set(loss.gradients) == {"cross_entropy", "kd"}
    assert cross_entropy()(student, x, y).gradients == {}


def test_several_teachers_answer_with_the_mean_of_their_logits() -> None:
    student, teacher, x, _ = networks()
    other = slimcnn.build("resnet8")
    both = Teacher([teacher, other])(student, x)
    with torch.no_grad():
        expected = (teacher.eval()(x) + other.eval()(x)) / 2
    torch.testing.assert_close(both, expected)


def test_teachers_are_copied_and_no_gradient_reaches_them() -> None:
    student, network, x, y = networks()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    teacher = Teacher(network)
    kd(teacher)(student, x, y).total.backward()
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in (*network.parameters(), *teacher.networks[0].parameters()))
    with torch.no_grad():
        network.linear.bias.add_(100)
    assert teacher(student, x).abs().max() < 50


def test_features_of_layers_are_compared_and_forgotten() -> None:
    student, teacher, x, y = networks()
    loss = (cross_entropy() + attention(teacher, layer="layer3"))(student, x, y)
    loss.total.backward()
    assert loss.terms["attention"] > 0
    assert loss.gradients["attention"] == 0
    assert not student.layer3._forward_hooks
    with pytest.raises(ModelError, match="no layer 'layer9'"):
        attention(teacher, layer="layer9")
    with pytest.raises(RecipeError, match="choose a layer"):
        attention(teacher)
    narrow = objective_named("fitnet:layer=layer3", Teacher(teacher))(student, x, y)
    narrow.total.backward()
    assert narrow.terms["fitnet"] > 0


def test_a_weight_warms_up_over_epochs_and_training_tells_how_far_it_is() -> None:
    student, teacher, x, y = networks()
    objective = scale_factor(teacher, warmup=2)
    sizes = []
    for epoch in (0, 0.5, 1, 2, 7):
        objective.before_step(epoch)
        sizes.append(objective(student, x, y).total.item())
    assert [size / sizes[-1] for size in sizes] == pytest.approx([0, 0.25, 0.5, 1, 1])
    data = load_dataset("digits").limit(64)
    training = Training(epochs=2, layout="nchw", precision="32")
    epochs = list(slimcnn.fit(student, data, training=training, objective=cross_entropy() + objective))
    assert set(epochs[0].terms) == set(epochs[0].gradients) == {"cross_entropy", "scale_factor"}
    assert epochs[1].gradients["scale_factor"] > 0
    assert epochs[0].loss == pytest.approx(sum(epochs[0].terms.values()))


def test_at_the_level_of_classes_the_teacher_sees_all_training_images_once_before() -> None:
    student, network, x, y = networks()
    data = load_dataset("digits").limit(100)
    teacher = Teacher(Counting(network))
    objective = cross_entropy() + scale_factor(teacher, level="class")
    with pytest.raises(ModelError, match="train with fit"):
        objective(student, x, y)
    training = Training(epochs=2, layout="nchw", precision="32", batch_size=32)
    (*_, last) = slimcnn.fit(student, data, training=training, objective=objective)
    assert int(teacher.networks[0].calls) == 1  # a batch of 256 holds all of them
    assert last.terms["scale_factor"] > 0
    with torch.no_grad():
        answers = network.eval()(data.normalization(data.train.pixels))
    known = class_factors(answers, data.train.labels, 4.0)
    found = objective(student.eval(), x, y).terms["scale_factor"]
    torch.testing.assert_close(found, class_factor_loss(student(x), known, y, 4.0), rtol=1e-4, atol=1e-5)
    with pytest.raises(RecipeError, match="choose sample or class"):
        scale_factor(teacher, level="batch")


@pytest.mark.parametrize("name", ["kd", "scale_factor", "dkd", "nckd", "dist", "centered_logit_mse", *ON_FEATURES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_registered_loss_teaches_a_network_and_a_cut_copy_of_it(name: str, dtype: torch.dtype) -> None:
    _, teacher, x, y = networks()
    graph = slimcnn.trace(teacher, x)
    plan = slimcnn.allocate(
        graph, slimcnn.score(teacher, graph, "l2"), slimcnn.Target(pruning_ratio=0.5, protect=("layer3.*",))
    )
    student = slimcnn.prune(teacher, graph, plan).train()
    spec = on_layer3(name)
    compared = last_features(student, teacher, x, kept_positions(graph, plan.by_index(graph)))
    objective = objective_named(f"cross_entropy+{spec}", Teacher(teacher, compared))
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        loss = objective(student, x, y)
    loss.total.backward()
    assert loss.terms[name] > 0
    assert loss.terms[name].dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in student.parameters())
    assert losses[name].source


def test_every_loss_is_in_the_list_of_the_law_above() -> None:
    marked = test_every_registered_loss_teaches_a_network_and_a_cut_copy_of_it.pytestmark
    (names,) = [mark.args[1] for mark in marked if mark.args[0] == "name"]
    ours = [entry.name for entry in losses if entry.value.__module__.startswith("slimcnn.")]  # not those of other tests
    assert sorted(names) == ours


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("x*kd", "'x' is not a number"),
        ("-1*kd", "the weight of a loss term is -1"),
        ("kd:temperature=0", "temperature is 0"),
        ("kd:temp=4", "no option 'temp'; its options are temperature"),
    ],
)
def test_impossible_wishes_are_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        objective_named(spec, Teacher(nn.Flatten()))


def test_unknown_losses_get_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="did you mean 'scale_factor'"):
        objective_named("scale_facto", Teacher(nn.Flatten()))


def test_other_classes_are_refused() -> None:
    student, _, x, y = networks()
    with pytest.raises(ModelError, match="must have the same classes"):
        kd(slimcnn.build("resnet8", num_classes=7))(student, x, y)
    with pytest.raises(ModelError, match="there is no teacher"):
        Teacher([])


def lesson(teacher: Teacher, views: int | None, epochs: int = 5, folder: Path | None = None) -> list[float]:
    """The losses of a short training, in full precision."""
    torch.manual_seed(1)
    student, data = slimcnn.build("resnet8", width=0.25), load_dataset("digits").limit(96)
    training = Training(epochs=epochs, layout="nchw", precision="32", batch_size=32, views=views, save_every_seconds=0)
    objective = 0.5 * cross_entropy() + 0.5 * kd(teacher)
    return [epoch.loss for epoch in slimcnn.fit(student, data, training=training, objective=objective, folder=folder)]


def test_a_teacher_with_a_cache_answers_every_view_once_and_the_training_is_the_same_bit_for_bit(
    tmp_path: Path,
) -> None:
    _, network, _, _ = networks()
    plain, cached = Teacher(network), Teacher(Counting(network)).cached(tmp_path / "answers.npy", 96, views=2)
    assert lesson(cached, views=2) == lesson(plain, views=2)
    assert int(cached.networks[0].calls) == 2 * 3  # two views of three batches; five epochs
    again = Teacher(Counting(network)).cached(tmp_path / "answers.npy", 96, views=2)
    lesson(again, views=2)
    assert int(again.networks[0].calls) == 0


def test_views_take_turns_and_images_keep_theirs_in_another_order(tmp_path: Path) -> None:
    data = load_dataset("digits").limit(40)
    seen: list[dict[int, Tensor]] = []
    for epoch in range(3):
        feed = batches(
            data.train, 8, normalization=data.normalization, augmentation=Augmentation(crop=2, flip=True), seed=5,
            epoch=epoch, view=epoch % 2,
        )  # fmt: skip
        numbers = indices(data.train, 8, seed=5, epoch=epoch)
        seen.append(
            {int(i): x for (xs, _), some in zip(feed, numbers, strict=True) for i, x in zip(some, xs, strict=True)}
        )
    assert list(seen[0]) != list(seen[2])
    assert all(torch.equal(seen[0][i], seen[2][i]) for i in seen[0])
    assert any(not torch.equal(seen[0][i], seen[1][i]) for i in seen[0])


def test_without_views_nothing_is_kept_and_other_files_are_refused(tmp_path: Path) -> None:
    _, network, _, _ = networks()
    path = tmp_path / "answers.npy"
    lesson(Teacher(network).cached(path, 96, views=1), views=None, epochs=1)
    assert not path.exists()
    lesson(Teacher(network).cached(path, 96, views=1), views=1, epochs=1)
    with pytest.raises(RunError, match="logits of another teacher"):
        Teacher(slimcnn.build("resnet8")).cached(path, 96, views=1)
    with pytest.raises(RunError, match="holds 1 views of 96 images, not 2 of 96"):
        lesson(Teacher(network).cached(path, 96, views=2), views=2, epochs=1)


def test_a_half_written_row_is_computed_again(tmp_path: Path) -> None:
    _, network, _, _ = networks()
    path = tmp_path / "answers.npy"
    expected = lesson(Teacher(network).cached(path, 96, views=1), views=1, epochs=2)
    rows = np.load(path, mmap_mode="r+")
    rows[0, 17, 5:] = np.nan
    rows.flush()
    assert lesson(Teacher(network).cached(path, 96, views=1), views=1, epochs=2) == expected
    assert not np.isnan(np.load(path)).any()


@pytest.mark.parametrize("name", ON_LOGITS)
def test_with_mixed_images_every_loss_is_averaged_over_both_labels(name: str) -> None:
    student, network, x, y = networks()
    other = y.roll(1)
    objective = objective_named(name, Teacher(network), label_smoothing=0.1)
    both = objective.mixed(student, x, (y, other), 0.7).terms
    one, two = (objective(student, x, labels).terms for labels in (y, other))
    for term, value in both.items():
        torch.testing.assert_close(value, 0.7 * one[term] + 0.3 * two[term])


def test_training_with_mixup_and_a_teacher_resumes_to_the_same_bits(tmp_path: Path) -> None:
    data = load_dataset("digits")
    _, network, _, _ = networks()
    training = Training(
        epochs=2, augmentation="default + mixup:alpha=0.4", layout="nchw", precision="32", batch_size=256
    )

    def epochs(folder: Path) -> tuple[nn.Module, Iterator[Epoch]]:
        torch.manual_seed(1)
        student = slimcnn.build("resnet8", width=0.25)
        objective = objective_named("kd+scale_factor", Teacher(network))
        return student, slimcnn.fit(student, data, training=training, objective=objective, folder=folder)

    ends = []
    for stops in (False, True):
        student, run = epochs(tmp_path / str(stops))
        if stops:
            next(run)
            del run
            student, run = epochs(tmp_path / str(stops))
        assert next(run).terms["scale_factor"] > 0
        assert len(list(run)) == 1
        ends.append(student.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_mixup_refuses_views_and_objectives_that_know_nothing_of_it() -> None:
    data, student = load_dataset("digits"), slimcnn.build("resnet8", width=0.25)
    with pytest.raises(RecipeError, match="mixup and cutmix cannot be combined with cached views"):
        next(slimcnn.fit(student, data, training=Training(epochs=1, augmentation="mixup", views=2)))
    plain = cross_entropy()
    with pytest.raises(RecipeError, match="mixup and cutmix need an objective for two labels"):
        next(
            slimcnn.fit(
                student, data, training=Training(epochs=1, augmentation="mixup"), objective=lambda *batch: plain(*batch)
            )
        )


@pytest.mark.parametrize("name", [entry.name for entry in losses])
def test_a_loss_that_reads_layers_says_so(name: str) -> None:
    _, teacher, x, _ = networks()
    spec = on_layer3(name)
    found = objective_named(f"0*cross_entropy+{spec}", Teacher(teacher, last_features(teacher, teacher, x, {})))
    assert bool(features_compared(spec)) == any(term.layers for term in found.terms)


def test_a_teacher_keeps_its_logits_or_shows_its_features(tmp_path: Path) -> None:
    _, network, _, _ = networks()
    with pytest.raises(RecipeError, match="stores logits only"):
        attention(Teacher(network).cached(tmp_path / "answers.npy", 96, views=1), layer="layer3")
    watched = Teacher(network)
    attention(watched, layer="layer3")
    with pytest.raises(RecipeError, match="stores logits only"):
        watched.cached(tmp_path / "answers.npy", 96, views=1)
