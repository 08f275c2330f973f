import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from two_processes import one_or_two

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


@pytest.mark.parametrize("name", ["plain", "batch_norm", "averaged", "taught"])
def test_both_ranks_end_with_the_same_bits_and_the_same_curve(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert first["curve"] == second["curve"]
    assert all(torch.equal(tensor, second["weights"][key]) for key, tensor in first["weights"].items())


@pytest.mark.parametrize("name", ["plain", "taught"])
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
def test_fabric_can_start_the_processes_itself(ranks, tmp_path):
    run(str(SCRIPT), str(tmp_path), "own launcher")
    for rank in (0, 1):
        own = torch.load(tmp_path / f"own_{rank}.pt", weights_only=True)
        assert all(torch.equal(tensor, own[key]) for key, tensor in ranks[0]["plain"]["weights"].items())
