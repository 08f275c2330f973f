"""Global feature relation: the scale of the batch norm behind a channel, and the channel's relation to the others."""

from __future__ import annotations

import torch
from torch import Tensor

from slimcnn.errors import CriterionError
from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("gfr", source="CN112308213A (patent, 2021); formula reconstructed")
def gfr(a: float = 0.5) -> Criterion:
    """Score channel i by |gamma_i|^a sr_i^(1 - a); the mean where several norms share the channel.

    `sr`, between 0 and 1, is the learned relation that `insert_relations` adds. a is between 0 and 1: a = 1 is network
    slimming, a = 0 is the relation alone, a = 0.5 ranks like gamma times sr, the scale after folding. Scores are
    ranked over the whole network without normalization. Groups without relations keep all their channels.

    >>> evidence = Evidence("conv", scales=(torch.tensor([-0.25, 0.5]),), relations=(torch.tensor([0.64, 0.04]),))
    >>> [round(value, 4) for value in gfr().score(evidence).tolist()], gfr(a=1).score(evidence).tolist()
    ([0.4, 0.1414], [0.25, 0.5])
    """
    if not 0 <= a <= 1:
        raise CriterionError(f"gfr: a={a} must be between 0 (relation alone) and 1 (scale alone)")

    def importance(evidence: Evidence) -> Tensor:
        pairs = zip(evidence.scales, evidence.relations, strict=True)
        return torch.stack([scale.abs() ** a * sr ** (1 - a) for scale, sr in pairs]).mean(dim=0)

    return Criterion("gfr" if a == 0.5 else f"gfr:a={a:g}", importance, needs="relations", comparable=True)
