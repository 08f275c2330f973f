import functools
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_runs import PLAIN, RESUMED, network, resumable_run, shapes, tensors

from earlier_names import rewrite_state
from slimcnn.errors import RunError
from slimcnn.objectives import Loss, cross_entropy
from slimcnn.training import Training, fit, loop, run
from slimcnn.training.interrupts import interrupts_noted

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["lightning_fabric", "training_runs"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finish(folder) == 0
    return torch.load(folder / "final.pt", weights_only=True)


def finish(folder: Path, **arguments) -> int:
    process = context.Process(target=resumable_run, args=(folder,), kwargs=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def assert_same(folder: Path, undisturbed) -> None:
    final = torch.load(folder / "final.pt", weights_only=True)
    assert final["losses"] == undisturbed["losses"]
    assert final["weights"].keys() == undisturbed["weights"].keys()
    for name, tensor in undisturbed["weights"].items():
        assert torch.equal(final["weights"][name], tensor), name


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(tmp_path, undisturbed):
    moments, kills = random.Random(7), 0
    while kills < 5:
        started = context.Event()
        process = context.Process(target=resumable_run, args=(tmp_path,), kwargs={"started": started})
        process.start()
        assert started.wait(60)
        process.join(moments.uniform(0, 0.25))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    assert kills >= 2
    assert finish(tmp_path) == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("how", ["writing", "replacing"])
def test_killed_while_it_saves_a_run_ends_with_the_same_bits(tmp_path, undisturbed, how):
    for at in (1, 9, 17):  # the very first state, one within an epoch, one later
        assert finish(tmp_path, killed=how, at=at) == -signal.SIGKILL
    assert finish(tmp_path) == 0
    assert_same(tmp_path, undisturbed)


def test_the_state_on_disk_is_data_not_code(tmp_path):
    next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    assert content["epoch"] == 1
    assert set(content["model"]) == set(network().state_dict())


def test_a_second_call_yields_the_whole_curve_and_trains_only_what_is_left(tmp_path):
    whole = list(fit(network(), shapes(), training=RESUMED))
    first = next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    model, steps = network(), []
    again = list(fit(model, shapes(), training=RESUMED, folder=tmp_path, progress=lambda *step: steps.append(step)))
    assert [epoch.resumed for epoch in again] == [True, False, False]
    assert [epoch.terms for epoch in again] == [epoch.terms for epoch in whole]
    assert [epoch.validation_loss for epoch in again] == [epoch.validation_loss for epoch in whole]
    assert again[0].seconds == first.seconds
    assert steps == [(done, 39) for done in range(14, 40)]

    finished = network()
    assert all(epoch.resumed for epoch in fit(finished, shapes(), training=RESUMED, folder=tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(tensors(finished).values(), tensors(model).values(), strict=True))


def test_a_state_of_an_earlier_version_ends_with_the_same_bits(tmp_path):
    undisturbed = network()
    whole = list(fit(undisturbed, shapes(), training=RESUMED))
    next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    rewrite_state(tmp_path / "state.pt")
    model = network()
    again = list(fit(model, shapes(), training=RESUMED, folder=tmp_path))
    assert [epoch.resumed for epoch in again] == [True, False, False]
    for name in ("train_accuracy", "validation_metric", "kept_metric", "kept"):
        assert [getattr(epoch, name) for epoch in again] == [getattr(epoch, name) for epoch in whole], name
    assert all(torch.equal(a, b) for a, b in zip(tensors(undisturbed).values(), tensors(model).values(), strict=True))


def in_a_process_of_its_own(test):
    """Run a test of Ctrl-C in a fresh Python: a library that another test loaded may handle SIGINT itself."""

    @functools.wraps(test)
    def run(tmp_path):
        code = (
            f"import sys; sys.path[:0] = {sys.path!r}; from pathlib import Path; import test_resume; "
            f"test_resume.{test.__name__}.__wrapped__(Path({str(tmp_path)!r}))"
        )
        listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        listening += "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT}); "
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", listening + code]
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return run


@in_a_process_of_its_own
def test_ctrl_c_saves_after_the_step_and_raises(tmp_path):
    undisturbed, model = network(), network()
    list(fit(undisturbed, shapes(), training=RESUMED))
    slow_saver = RESUMED.model_copy(update={"save_every_seconds": 3600.0})

    def interrupt(done: int, total: int) -> None:
        if done == 16:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        list(fit(model, shapes(), training=slow_saver, folder=tmp_path, progress=interrupt))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 4)  # 13 + 4 steps are done: the one under way was finished
    list(fit(model, shapes(), training=slow_saver, folder=tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(tensors(undisturbed).values(), tensors(model).values(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"training": RESUMED.model_copy(update={"learning_rate": 0.5})},
            "training.learning_rate was 0.05, now 0.5",
        ),
        ({"model": network(width=7)}, r"model.0.weight was \(6, 2, 3, 3\) .*, now \(7, 2, 3, 3\)"),
        ({"data": shapes(n=180)}, "dataset.train was 203, now 180"),
        ({"data": shapes(seed=2)}, "dataset.labels"),
        ({"model": network(batch_norm=False)}, "model.1.weight was .*, now absent"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_kept(tmp_path, change, message):
    next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    before = (tmp_path / "state.pt").read_bytes()
    call = {"model": network(), "data": shapes(), "training": RESUMED} | change
    with pytest.raises(RunError, match=f"holds another run: .*{message}"):
        next(fit(**call, folder=tmp_path))
    assert (tmp_path / "state.pt").read_bytes() == before


def test_how_often_to_save_is_not_another_run(tmp_path):
    next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    rarely = RESUMED.model_copy(update={"save_every_seconds": 10.0})
    assert next(fit(network(), shapes(), training=rarely, folder=tmp_path)).resumed


def test_another_objective_in_the_middle_of_an_epoch_is_refused(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise InterruptedError

    def other(model, x, y) -> Loss:
        loss = cross_entropy()(model, x, y)
        return Loss({"mine": loss.total}, loss.logits)

    with pytest.raises(InterruptedError):
        next(fit(network(), shapes(), training=RESUMED, folder=tmp_path, progress=stop))
    with pytest.raises(RunError, match="consists of mine, but this epoch began with cross_entropy"):
        next(fit(network(), shapes(), training=RESUMED, objective=other, folder=tmp_path))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no state at all"])
def test_a_damaged_state_is_refused_with_its_path(tmp_path, damage):
    next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    path = tmp_path / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"state.pt: it cannot be read .* delete it") as caught:
        next(fit(network(), shapes(), training=RESUMED, folder=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_keeps_the_old_state(tmp_path):
    epochs = fit(network(), shapes(), training=RESUMED, folder=tmp_path)
    next(epochs)
    before = (tmp_path / "state.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*state.pt: .*free some space"):
            next(epochs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    steps, impossible = [], tmp_path / "file" / "run"
    with pytest.raises(RunError, match="cannot write"):
        next(fit(network(), shapes(), training=RESUMED, folder=impossible, progress=lambda *step: steps.append(step)))
    assert not steps


def test_what_the_probe_chose_stays_chosen(tmp_path, monkeypatch):
    auto = Training(epochs=2, batch_size=16, learning_rate=0.05)
    choices = iter(["channels_last", "nchw"])

    def choose(model, dataset, training, *, device):
        return training.model_copy(update={"layout": next(choices), "precision": "32"})

    monkeypatch.setattr(run, "probe", choose)
    next(fit(network(), shapes(), training=auto, folder=tmp_path))
    list(fit(network(), shapes(), training=auto, folder=tmp_path))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["layout"] == "channels_last"
    assert list(choices) == ["nchw"]


def test_states_are_saved_within_an_epoch_as_often_as_asked(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "save", lambda run, state: saved.append((state.epoch, state.step)))
    once = Training(epochs=1, batch_size=50, save_every_seconds=0, **PLAIN)
    list(fit(network(), shapes(), training=once, folder=tmp_path))
    assert saved == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 0)]


def test_the_loss_scale_of_16_bit_training_is_part_of_the_state(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_check", lambda *arguments: None)  # refuses float16 on a CPU, where it is only slow
    half = RESUMED.model_copy(update={"precision": "16-mixed", "clip_norm": 5.0})
    undisturbed, resumed = network(), network()
    list(fit(undisturbed, shapes(), training=half))
    next(fit(network(), shapes(), training=half, folder=tmp_path))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["scaler"]["_growth_tracker"] == 13
    list(fit(resumed, shapes(), training=half, folder=tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(tensors(undisturbed).values(), tensors(resumed).values(), strict=True))


def interrupted() -> None:
    with interrupts_noted() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()


@in_a_process_of_its_own
def test_ctrl_c_right_before_the_end_of_a_step_is_not_lost(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
@in_a_process_of_its_own
def test_the_second_ctrl_c_does_not_wait(tmp_path):
    def twice() -> None:
        with interrupts_noted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one was only noted")

    with pytest.raises(KeyboardInterrupt):
        twice()
