import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from two_processes import one_or_two

from slimcnn.process_ids import this_process
from slimcnn.training import processes

SCRIPT = Path(__file__).with_name("two_processes.py")


def run(*command: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT), str(folder))
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    return one_or_two(None, Fabric(accelerator="cpu", devices=1))


@pytest.mark.parametrize("name", ["plain", "batch_norm", "averaged", "frozen_first", "taught"])
def test_both_ranks_end_with_the_same_bits_and_the_same_curve(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert first["curve"] == second["curve"]
    assert all(torch.equal(tensor, second["weights"][key]) for key, tensor in first["weights"].items())


@pytest.mark.parametrize("name", ["plain", "frozen_first", "taught"])
def test_two_processes_train_as_one_where_no_batch_norm_looks_at_the_share(ranks, alone, name):
    """With batch norm each rank normalizes by the statistics of its own half of the batch: other numbers by design."""
    for key, tensor in alone[name]["weights"].items():
        torch.testing.assert_close(ranks[0][name]["weights"][key], tensor, rtol=1e-4, atol=1e-6)
    for two, one in zip(ranks[0][name]["curve"], alone[name]["curve"], strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_batch_norm_in_two_processes_sees_other_statistics(ranks, alone):
    variances = [found["batch_norm"]["weights"]["1.running_var"] for found in (ranks[0], alone)]
    assert not torch.allclose(*variances)


def test_evaluation_in_two_processes_is_evaluation_in_one(ranks, alone):
    for rank in ranks:
        assert rank["evaluation"] == pytest.approx(alone["evaluation"])
        assert rank["evaluation"][:2] == alone["evaluation"][:2]


def test_an_error_on_one_rank_is_the_error_of_all(ranks):
    for rank in ranks:
        another_run, diverged = rank["refusals"]
        assert "holds another run" in another_run
        assert "'extra' is nan at step 1 of 7 of epoch 1" in diverged


@pytest.mark.slow
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_a_rank_is_killed_the_other_says_which_and_that_the_same_command_resumes(rank, tmp_path):
    script = SCRIPT.with_name("one_rank_dies.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(tmp_path), str(rank)]
    subprocess.run(command, env=environment, capture_output=True, timeout=120)
    for _ in range(300):  # the other rank may outlive the one that started it
        if (tmp_path / "said").exists():
            break
        time.sleep(0.1)
    assert (tmp_path / "said").read_text() == (
        f"rank {rank} was lost (killed, out of memory, or failed with an error of its own); "
        "run the same command to resume"
    )


def test_an_error_of_this_rank_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(processes, "_ranks", [this_process()] * 2)
    monkeypatch.setattr(processes, "PATIENCE", 0.0)
    with pytest.raises(RuntimeError, match="sizes do not match"), processes.lost_ranks_named():
        raise RuntimeError("sizes do not match")


@pytest.mark.slow
def test_fabric_can_start_the_processes_itself(ranks, tmp_path):
    run(str(SCRIPT), str(tmp_path), "own launcher")
    for rank in (0, 1):
        own = torch.load(tmp_path / f"own_{rank}.pt", weights_only=True)
        assert all(torch.equal(tensor, own[key]) for key, tensor in ranks[0]["plain"]["weights"].items())
