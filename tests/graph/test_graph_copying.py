"""Copies of networks: complete, independent, and the same as Python's own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.graph.copying import duplicate, duplicate_as, shallow_copy, shares_memory


class Furnished(nn.Module):
    """A network with all that a copy could forget or share by mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.tied = nn.Conv2d(3, 4, 1)
        self.tied.weight = self.a.weight
        self.again = self.a
        self.register_buffer("fleeting", torch.rand(2), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("none", None)
        self.a.weight.no_decay = True  # type: ignore[attr-defined]
        self.b.weight.requires_grad_(False)
        self.settings = {"width": 4, "list": [1, 2], "nested": {"deep": torch.rand(2)}}
        self.ordered = OrderedDict(one=1)
        self.shape, self.kinds, self.method = (1, 2), {nn.Conv2d}, self.forward
        self.loose = torch.rand(3)
        self.alias = [self.a.weight]
        self.plain_list_of_modules = (self.b,)
        self.b.eval()
        self.a.register_forward_hook(self.notice)
        self.seen: list[int] = []

    def notice(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen.append(len(output))

    def forward(self, x: Tensor) -> Tensor:
        self.result = self.b(self.a(x) * 2)
        return self.result


def look(model: Furnished) -> dict[str, Any]:
    return {
        "state": [(name, tensor.tolist()) for name, tensor in model.state_dict().items()],
        "flags": [(name, p.requires_grad) for name, p in model.named_parameters()],
        "plain": (model.settings["width"], model.settings["list"], model.ordered, model.shape, model.kinds, model.seen),
        "loose": (model.loose.tolist(), model.settings["nested"]["deep"].tolist(), model.fleeting.tolist()),  # type: ignore[index]
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "names": [name for name, _ in model.named_modules(remove_duplicate=False)],
        "kept": [name for name, _ in model.named_buffers()],
    }


@pytest.mark.parametrize("way", [duplicate, shallow_copy, copy.deepcopy])
@pytest.mark.parametrize("ran", [False, True])
def test_a_copy_is_complete_and_leaves_the_original_alone(way: Any, ran: bool) -> None:
    model = Furnished()
    if ran:
        with torch.no_grad() if way is copy.deepcopy else torch.enable_grad():
            model(torch.rand(2, 3, 4, 4))
    before = look(model)
    copied = way(model)
    assert look(copied) == before
    assert type(copied) is Furnished
    for shared in ("settings", "ordered", "kinds", "loose", "seen", "fleeting"):
        assert getattr(copied, shared) is not getattr(model, shared)
    assert copied.settings["list"] is not model.settings["list"]
    assert copied.tied.weight is copied.a.weight is copied.alias[0]
    assert copied.again is copied.a is not model.a
    assert copied.plain_list_of_modules[0] is copied.b
    assert copied.method.__self__ is copied
    assert (copied.a.weight is model.a.weight) == (way is shallow_copy)
    copied.train()(torch.rand(5, 3, 4, 4))
    copied.loose.zero_()
    assert look(model) == before
    assert copied.seen[-1] == 5, "the copied hook writes to the copy"


@pytest.mark.parametrize("way", [duplicate, shallow_copy])
def test_results_kept_from_a_run_come_along_detached(way: Any) -> None:
    model = Furnished()
    model(torch.rand(2, 3, 4, 4))
    model.settings["nested"] = {"deep": [model.result * 2]}
    copied = way(model)
    assert torch.equal(copied.result, model.result)
    assert copied.result.grad_fn is None
    assert copied.settings["nested"]["deep"][0].grad_fn is None
    assert model.result.grad_fn is not None


def test_what_was_written_on_a_parameter_comes_along() -> None:
    assert duplicate(Furnished()).a.weight.no_decay


@pytest.mark.parametrize("way", [duplicate, shallow_copy])
def test_modules_that_say_themselves_how_they_are_copied_are_asked(way: Any) -> None:
    class Special(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.copies = 0

        def __deepcopy__(self, memo: Any) -> Special:
            new = Special()
            new.copies = self.copies + 1
            return new

    copied = way(nn.Sequential(nn.Conv2d(3, 4, 1), Special()))
    assert copied[1].copies == 1


def test_a_compiled_forward_is_left_behind() -> None:
    model = nn.Conv2d(3, 4, 1)
    model.compile()
    assert model._compiled_call_impl is not None
    assert duplicate(model)._compiled_call_impl is None


def test_parametrized_layers_are_copied() -> None:
    model = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 1))
    copied = duplicate(model).eval()
    assert torch.allclose(copied.weight, model.eval().weight)
    assert copied.parametrizations.weight.original is not model.parametrizations.weight.original


def test_what_cannot_be_copied_is_refused_in_one_line() -> None:
    model = Furnished()
    model.file = open(__file__)  # type: ignore[assignment]  # noqa: SIM115
    with pytest.raises(ModelError, match="cannot be copied") as caught:
        duplicate(model)
    model.file.close()  # type: ignore[union-attr, operator]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_copy_in_another_precision_is_a_copy_that_was_converted(dtype: torch.dtype) -> None:
    model = Furnished()
    expected, found = duplicate(model).to(dtype), duplicate_as(model, dtype)
    assert look(found) == look(expected)
    assert {t.dtype for t in found.state_dict().values()} == {t.dtype for t in expected.state_dict().values()}
    assert found.tied.weight is found.a.weight
    assert found.alias[0] is found.a.weight
    assert found.a.weight.no_decay
    found.a.weight.data.zero_()
    assert model.a.weight.all()


def test_two_views_of_one_memory_are_seen_and_tied_weights_are_none() -> None:
    model = Furnished()
    assert not shares_memory(model)
    model.view = nn.Parameter(model.b.bias.detach()[:2])
    assert shares_memory(model)
