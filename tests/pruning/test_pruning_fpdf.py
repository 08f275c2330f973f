"""FPDF keeps the distribution of norms, and of what is left the least redundant: for any layer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import Tensor

from slimcnn.errors import CriterionError
from slimcnn.pruning import Evidence
from slimcnn.pruning.criteria.fpdf import cell_distances, fit_distribution, fpdf, matched, quantiles
from slimcnn.pruning.input_statistics import Reading
from slimcnn.pruning.norm_bound import within_bound
from slimcnn.pruning.scores import criterion_named


def chosen(filters: Tensor, m: int, **options: Any) -> list[int]:
    criterion = fpdf(**options)
    assert criterion.choose is not None
    return [int(c) for c in criterion.choose(Evidence("layer", (filters.double(),)), m)]


def kolmogorov_smirnov(kept: np.ndarray, norms: np.ndarray) -> float:
    """The largest distance between the two empirical distribution functions."""
    return max(abs((kept <= v).mean() - (norms <= v).mean()) for v in norms)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, int]:
    n = draw(st.integers(2, 48))
    m = draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    filters = torch.randn(n, draw(st.integers(1, 9)), generator=generator, dtype=torch.float64)
    spread = draw(st.sampled_from([0.0, 1.0, 3.0]))
    return filters * torch.exp(spread * torch.randn(n, 1, generator=generator, dtype=torch.float64)), m


law = settings(max_examples=150, deadline=None, derandomize=True)


@law
@given(layers())
def test_kept_and_original_norms_differ_by_at_most_one_in_m(layer: tuple[Tensor, int]) -> None:
    filters, m = layer
    norms = filters.norm(dim=1).numpy()
    kept = norms[chosen(filters, m)]
    assert len(kept) == m
    assert kolmogorov_smirnov(kept, norms) <= 1 / m + 1e-12


@law
@given(layers())
def test_every_quantile_group_keeps_exactly_one(layer: tuple[Tensor, int]) -> None:
    filters, m = layer
    n, kept = len(filters), set(chosen(filters, m))
    order = sorted(range(n), key=lambda i: (float(filters[i].norm()), i))
    for k in range(m):
        assert len(kept.intersection(order[k * n // m : (k + 1) * n // m])) == 1


@law
@given(layers(), st.integers(1, 12))
def test_with_bins_every_bin_keeps_its_share(layer: tuple[Tensor, int], bins: int) -> None:
    filters, m = layer
    n, kept = len(filters), set(chosen(filters, m, bins=bins))
    order = sorted(range(n), key=lambda i: (float(filters[i].norm()), i))
    assert len(kept) == m
    for b in range(bins):
        members = order[b * n // bins : (b + 1) * n // bins]
        assert abs(len(kept.intersection(members)) - len(members) * m / n) < 1


@law
@given(layers())
def test_the_steps_of_the_method_written_as_loops_give_the_same_choice(layer: tuple[Tensor, int]) -> None:
    filters, m = layer
    n = len(filters)
    distance = np.linalg.norm(filters[:, None].numpy() - filters[None].numpy(), axis=2)
    order = sorted(range(n), key=lambda i: (float(filters[i].norm()), i))
    kept: list[int] = []
    for k in range(m):
        group = order[k * n // m : (k + 1) * n // m]
        worth = [min(distance[i, j] for j in kept) if kept else distance[i].sum() for i in group]
        kept.append(group[int(np.argmax(worth))])
    assert chosen(filters, m) == sorted(kept)


@law
@given(layers(), st.randoms(use_true_random=False))
def test_the_order_of_the_filters_does_not_matter(layer: tuple[Tensor, int], random: object) -> None:
    filters, m = layer
    order = list(range(len(filters)))
    random.shuffle(order)  # type: ignore[attr-defined]
    if filters.size(1) == 1 and m > 1:
        return  # on a line, farthest points tie
    assert sorted(order[i] for i in chosen(filters[order], m)) == chosen(filters, m)


@law
@given(layers(), st.sampled_from([1e-3, 3.0, 1024.0]))
def test_the_scale_of_a_layer_does_not_matter(layer: tuple[Tensor, int], scale: float) -> None:
    filters, m = layer
    if filters.size(1) > 1 or m == 1:
        assert chosen(filters * scale, m) == chosen(filters, m)


@law
@given(st.integers(2, 24), st.integers(0, 2**31))
def test_of_exact_copies_never_both_are_kept(pairs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    originals = torch.randn(pairs, 5, generator=generator, dtype=torch.float64)
    order = torch.randperm(2 * pairs, generator=generator)
    filters = torch.cat([originals, originals])[order]
    assert sorted(int(order[i]) % pairs for i in chosen(filters, pairs)) == list(range(pairs))


def test_pure_redundancy_pruning_keeps_the_farthest_first() -> None:
    """bins=1 on a line: the first is the one with the largest total distance, then the farthest from those kept."""
    filters = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]])
    assert chosen(filters, 2, bins=1) == [0, 4]
    assert chosen(filters, 3, bins=1) == [0, 2, 4]


def test_as_many_bins_as_kept_filters_is_the_strict_rule() -> None:
    filters = torch.randn(20, 6, dtype=torch.float64)
    assert chosen(filters, 7, bins=7) == chosen(filters, 7)


def test_a_layer_worked_out_by_hand() -> None:
    """Norms 1, 1.005, 3, 3.1: groups {0, 1} and {2, 3}.  0 is farther from all; from 0, 2 is farther than 3."""
    filters = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 3.0], [3.1, 0.0]])
    assert chosen(filters, 2) == [0, 2]
    assert chosen(filters, 4) == [0, 1, 2, 3]
    assert chosen(filters, 1) == [2]


def test_norm_pruning_moves_the_distribution_by_the_share_removed_and_fpdf_hardly() -> None:
    generator = torch.Generator().manual_seed(0)
    norms = torch.rand(64, generator=generator).numpy()
    filters = torch.nn.functional.normalize(torch.randn(64, 9, generator=generator)) * torch.tensor(norms)[:, None]
    assert kolmogorov_smirnov(np.sort(norms)[32:], norms) == 0.5
    assert kolmogorov_smirnov(filters.norm(dim=1).numpy()[chosen(filters, 32)], filters.norm(dim=1).numpy()) <= 1 / 32


def test_no_choice_of_filters_fits_the_distribution_much_better() -> None:
    """Against all 924 subsets of 6 of 12: the distance between the distributions is within 1/m of the best."""
    generator = torch.Generator().manual_seed(2)
    filters = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    norms = filters.norm(dim=1).numpy()
    best = min(kolmogorov_smirnov(norms[list(subset)], norms) for subset in itertools.combinations(range(12), 6))
    assert kolmogorov_smirnov(norms[chosen(filters, 6)], norms) <= best + 1 / 12 + 1e-12


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_filters_are_no_problem(value: float) -> None:
    filters = torch.full((8, 3), value)
    for m in range(1, 9):
        assert len(chosen(filters, m)) == m


def test_options_are_part_of_the_name() -> None:
    assert criterion_named("fpdf:norm=1,bins=4").name == "fpdf:bins=4,norm=1"
    assert criterion_named("fpdf:norm=2").name == "fpdf"


def test_several_layers_with_the_same_channels_count_alike() -> None:
    one, two = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, 7, dtype=torch.float64)
    criterion = fpdf()
    assert criterion.choose is not None
    expected = criterion.choose(Evidence("layer", (one, two)), 5)
    assert torch.equal(criterion.choose(Evidence("layer", (one * 50, two / 50)), 5), expected)


def test_fit_distribution_takes_any_norms_and_distances() -> None:
    norms, points = torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([[0.0], [5.0], [9.0], [2.0]])
    assert fit_distribution(norms, torch.cdist(points, points), 2).tolist() == [0, 2]


# --- the best fit, an ablation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("norm", [1, 2])
def test_the_optimal_fit_is_the_best_of_all_subsets(seed: int, norm: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, m = 7 + seed % 4, 2 + seed % 5
    filters = torch.randn(n, 3, generator=generator, dtype=torch.float64) * torch.rand(n, 1, generator=generator).exp()
    norms = filters.norm(p=norm, dim=1).numpy()
    best = min(wasserstein_distance(norms[list(s)], norms) for s in itertools.combinations(range(n), m))
    kept = chosen(filters, m, fit="optimal", norm=norm)
    assert len(set(kept)) == m
    assert wasserstein_distance(norms[kept], norms) == pytest.approx(best, rel=1e-9)


@law
@given(layers())
def test_no_rule_fits_better_than_the_optimal_one(layer: tuple[Tensor, int]) -> None:
    filters, m = layer
    norms = filters.norm(dim=1).numpy()
    best = wasserstein_distance(norms[chosen(filters, m, fit="optimal")], norms)
    assert best <= wasserstein_distance(norms[chosen(filters, m)], norms) + 1e-9 * norms.mean()


@law
@given(layers())
def test_distances_to_cells_add_up_to_the_distance_of_the_distributions(layer: tuple[Tensor, int]) -> None:
    filters, m = layer
    norms = filters.norm(dim=1).sort().values
    kept = norms[torch.linspace(0, len(norms) - 1, m).long()]
    total = float(cell_distances(kept, norms, m).diagonal().sum()) / m
    assert total == pytest.approx(wasserstein_distance(kept.numpy(), norms.numpy()), rel=1e-9, abs=1e-12)


def test_quantiles_of_a_sample_of_their_own_number_are_the_sample() -> None:
    norms = torch.tensor([1.0, 2.0, 5.0, 7.0], dtype=torch.float64)
    assert quantiles(norms, 4).tolist() == norms.tolist()
    assert quantiles(norms, 2).tolist() == [1.5, 6.0]
    assert quantiles(norms, 1).tolist() == [3.75]


@pytest.mark.parametrize("seed", range(5))
def test_matching_finds_the_least_sum_over_all_ascending_subsets(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    norms = torch.rand(7, generator=generator)
    order = norms.argsort().tolist()
    sums = {s: sum(float(costs[k, order[i]]) for k, i in enumerate(s)) for s in itertools.combinations(range(7), 3)}
    best = min(sums, key=sums.__getitem__)
    assert matched(costs, norms).tolist() == sorted(order[i] for i in best)


@pytest.mark.parametrize("spec", ["fpdf:fit=nearest", "fpdf:fit=optimal,bins=3", "fpdf:bins=x", "fpdf:fit"])
def test_options_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(CriterionError):
        criterion_named(spec)


# --- a bound on the fit -----------------------------------------------------------------------------------------------


TAUS = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.35, 1.0])


@law
@given(layers(), TAUS)
def test_under_a_bound_the_distance_of_the_distributions_is_at_most_tau_or_one_in_m(
    layer: tuple[Tensor, int], tau: float
) -> None:
    filters, m = layer
    norms = filters.norm(dim=1).numpy()
    kept = norms[chosen(filters, m, tau=tau, redundancy="distance")]
    assert len(kept) == m
    assert kolmogorov_smirnov(kept, norms) <= max(tau, 1 / m) + 1e-9


def fits(places: tuple[int, ...], n: int, m: int, tau: float) -> bool:
    """Whether kept positions in the order of norms obey the bound, by its definition."""
    return all(abs(sum(p < j for p in places) / m - j / n) <= max(tau, 1 / m) + 1e-9 for j in range(1, n + 1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 9), st.data(), TAUS)
def test_greedy_removal_under_the_bound_is_that_of_trying_all_subsets(n: int, data: st.DataObject, tau: float) -> None:
    m = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    norms, cost = torch.rand(n, generator=generator), torch.rand(n, generator=generator)
    order = norms.argsort().tolist()
    allowed = [set(one) for one in itertools.combinations(range(n), m) if fits(one, n, m, tau)]
    left = set(range(n))
    while len(left) > m:
        for candidate in sorted(left, key=lambda place: float(cost[order[place]])):
            if any(one <= left - {candidate} for one in allowed):
                left.remove(candidate)
                break
    found = within_bound(norms, m, tau, lambda: cost, lambda _: None)
    assert found.tolist() == sorted(order[place] for place in left)


def reading_of(inputs: Tensor, weight: Tensor) -> Reading:
    channels = torch.arange(inputs.shape[1])
    return Reading("next.weight", 0, inputs.T.cov(), inputs.mean(0), weight, channels, channels[:, None])


def test_of_two_channels_with_the_same_output_one_goes_first_and_then_the_other_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    x[:, 3] = x[:, 1]
    evidence = Evidence(
        "layer", (torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)),),
        readings=(reading_of(x, torch.ones(2, 4, dtype=torch.float64)),), channels=4,
    )  # fmt: skip
    criterion = fpdf(tau=1.0)
    assert criterion.choose is not None
    kept = criterion.choose(evidence, 3).tolist()
    assert len({1, 3} & set(kept)) == 1
    assert {0, 2} <= set(kept)


def test_without_a_bound_the_kept_channels_are_those_of_the_criterion_reconstruction() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64) @ torch.randn(8, 8, generator=generator).double()
    reading = reading_of(x, torch.randn(5, 8, generator=generator, dtype=torch.float64))
    filters = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    evidence = Evidence("layer", (filters,), readings=(reading,), channels=8)
    free = fpdf(tau=1.0)
    assert free.choose is not None
    scores = criterion_named("reconstruction").score(evidence)
    for m in range(1, 9):
        assert free.choose(evidence, m).tolist() == sorted(scores.argsort(descending=True)[:m].tolist())


def test_evidence_of_a_part_of_the_channels_is_that_part() -> None:
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    reading = reading_of(x, torch.ones(1, 6, dtype=torch.float64)).of(torch.tensor([4, 1]))
    assert (reading.channels.tolist(), reading.columns.tolist()) == ([1, 0], [[1], [4]])
    assert len(reading.moments) == 6  # the other inputs stay and can replace


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fpdf:tau=1.5", "tau=1.5 must be from 0"),
        ("fpdf:tau=0.2,bins=4", "leave bins and fit out"),
        ("fpdf:tau=0.2,redundancy=none", "redundancy=none must be"),
        ("fpdf:redundancy=distance", "needs tau"),
    ],
)
def test_options_of_the_bound_that_make_no_sense_are_refused(spec: str, said: str) -> None:
    with pytest.raises(CriterionError, match=said):
        criterion_named(spec)


def test_the_name_of_a_bounded_criterion_builds_it_again() -> None:
    for spec in ("fpdf:tau=0.2", "fpdf:norm=1,tau=0.15,redundancy=distance"):
        assert criterion_named(criterion_named(spec).name).name == spec
