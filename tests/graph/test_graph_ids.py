"""Facets by hand."""

import torch

from slimcnn.graph.ids import along, axis_facet, compact, core, ids_in, same, varying

SEVEN_EIGHT = torch.tensor([7, 8])


def test_a_facet_spreads_one_id_per_position_of_its_axis() -> None:
    facet = axis_facet(SEVEN_EIGHT, (3, 2, 4), 1)
    assert facet.shape == (3, 2, 4)
    assert (facet[:, 0] == 7).all()
    assert (facet[:, 1] == 8).all()


def test_a_facet_costs_one_number_per_id() -> None:
    facet = axis_facet(torch.arange(64), (1, 64, 112, 112), 1)
    assert facet.untyped_storage().nbytes() == 64 * 8


def test_varying_names_the_axes_along_which_ids_change() -> None:
    assert varying(axis_facet(SEVEN_EIGHT, (3, 2, 4), 1)) == {1}
    assert varying(torch.tensor([[1, 2], [3, 4]])) == {0, 1}
    assert varying(torch.tensor(5).expand(3, 2)) == set()


def test_an_axis_of_size_one_never_varies() -> None:
    assert varying(torch.tensor([[[3]]])) == set()


def test_compact_finds_the_axes_along_which_nothing_changes() -> None:
    written_out = torch.tensor([[7, 8], [7, 8], [7, 8]])
    assert varying(written_out) == {0, 1}
    assert varying(compact(written_out)) == {1}
    assert torch.equal(compact(written_out), written_out)


def test_compact_of_nothing_is_nothing() -> None:
    assert compact(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3)


def test_core_keeps_one_of_each() -> None:
    facet = axis_facet(SEVEN_EIGHT, (3, 2, 4), 1)
    assert core(facet).shape == (1, 2, 1)
    assert core(facet, {0}).shape == (3, 2, 1)


def test_along_reads_an_axis_only_if_ids_change_nowhere_else() -> None:
    facet = axis_facet(SEVEN_EIGHT, (3, 2, 4), 1)
    assert along(facet, 1).tolist() == [7, 8]
    assert along(facet, 0) is None
    assert along(torch.tensor([[1, 2], [3, 4]]), 1) is None


def test_ids_in_lists_every_id_once_and_not_the_missing_one() -> None:
    label = (axis_facet(SEVEN_EIGHT, (2, 2), 0), torch.tensor([[-1, 3], [8, -1]]))
    assert ids_in(label).tolist() == [3, 7, 8]
    assert ids_in(()).tolist() == []


def test_same_compares_numbers_and_how_many_facets_there_are() -> None:
    a, b = axis_facet(SEVEN_EIGHT, (2, 2), 0), axis_facet(SEVEN_EIGHT, (2, 2), 1)
    assert same((a,), (a.clone(),))
    assert not same((a,), (b,))
    assert not same((a,), (a, a))
