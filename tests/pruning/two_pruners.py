"""What each of two processes does in test_pruning_processes; importable, because it is started anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from networks_to_prune import image, plain
from torch import distributed as dist

from slimcnn.errors import SlimcnnError
from slimcnn.graph import trace
from slimcnn.pruning import Scores, Target, allocate, score


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = plain(8, 6)
    graph = trace(model, image())
    generator = torch.Generator().manual_seed(rank)
    data = [(torch.randn(4, 3, 4, 4, generator=generator), torch.randint(5, (4,), generator=generator))]

    scores = score(model, graph, "taylor", data)
    plan = allocate(graph, scores, Target(macs=0.5, scope="global"))
    found = {
        "scores": {name: values.tolist() for name, values in scores.values.items()},
        "plan": plan.to_json(graph),
        "refused": "",
        "other_network": "",
    }
    mine = {group.name: torch.arange(group.channels).double().roll(rank) for group in graph.groups}
    try:
        allocate(graph, Scores("mine", mine), Target(pruning_ratio=0.5))
    except SlimcnnError as error:
        found["refused"] = str(error)
    other = plain(8, 6) if rank == 0 else plain(8)
    try:
        score(other, trace(other, image()), "l2")
    except SlimcnnError as error:
        found["other_network"] = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # now and then a thread of gloo outlives the group and aborts the interpreter's own exit
