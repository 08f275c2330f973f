"""One word names a network of ours, timm, torchvision or the user; nothing is downloaded; errors are one line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimcnn.errors import ModelError, UnknownName
from slimcnn.models import Preprocessing, preprocessing, resolve

USER_CODE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=4, num_classes=10):
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

class Factory:
    make = Net

def fixed():
    return nn.Linear(2, 2)

def anything(**arguments):
    model = nn.Linear(2, 2)
    model.seen = arguments
    return model

def lazy_import():
    import their_other_file
    return their_other_file.net()

def wrong():
    return {"model": nn.Linear(2, 2)}

def breaks():
    raise RuntimeError("no such block\\nsecond line")

def leaves():
    raise SystemExit(3)

def taken():
    model = nn.Linear(2, 2)
    model.architecture = "mine"
    return model

built = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture
def their(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_net.py").write_text(USER_CODE)
    (tmp_path / "their_other_file.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")
    (tmp_path / "their_broken.py").write_text("x = 1\nimport nothing_of_that_name\n")
    (tmp_path / "their_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("their_net", "their_other_file", "their_broken", "their_syntax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "their_net"


def label(model: nn.Module) -> dict[str, Any]:
    return model.architecture  # type: ignore[return-value]


SPECS = ["resnet8", "timm:resnet10t", "timm:mobilenetv3_small_050.lamb_in1k", "torchvision:shufflenet_v2_x0_5"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_label_builds_the_same_shapes_again(spec: str) -> None:
    model = resolve(spec, num_classes=3, in_channels=3)
    stored = json.loads(json.dumps(label(model)))
    assert stored["model"] == spec
    again = resolve(stored["model"], **stored["arguments"])
    found = {name: tensor.shape for name, tensor in again.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        assert again.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_timm_networks_take_other_channels() -> None:
    model = resolve("timm:resnet10t", in_channels=1, num_classes=4)
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 4)


def test_torchvision_networks_refuse_other_channels() -> None:
    with pytest.raises(ModelError, match="torchvision:resnet18 takes 3 input channels, not 1"):
        resolve("torchvision:resnet18", in_channels=1)


def test_torchvision_segmentation_does_not_fetch_its_backbone() -> None:
    assert label(resolve("torchvision:lraspp_mobilenet_v3_large", num_classes=2))["arguments"] == {"num_classes": 2}


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "their_net:anything"])
@pytest.mark.parametrize("argument", ["pretrained", "weights", "checkpoint_path"])
def test_arguments_that_would_fetch_weights_are_refused(spec: str, argument: str, their: str) -> None:
    with pytest.raises(ModelError, match="give --weights FILE, or --weights pretrained for timm and torchvision"):
        resolve(spec, **{argument: "DEFAULT"})


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("resnet65", "unknown network 'resnet65': did you mean 'resnet56'"),
        ("nothing", r"Known: \d+ others, .*see slimcnn list networks, timm:NAME, torchvision:NAME"),
        ("timm:resnet81", r"unknown timm network 'resnet81': did you mean 'resnet18'\? Known: \d+ others, "),
        ("timm:hf-hub:owner/name", "unknown timm network"),
        (
            "torchvision:resnt18",
            r"unknown torchvision network 'resnt18': did you mean 'resnet18'\? Known: \d+ others, ",
        ),
    ],
)
def test_unknown_names_get_a_suggestion(spec: str, complaint: str) -> None:
    with pytest.raises(UnknownName, match=complaint) as refusal:
        resolve(spec)
    assert len(str(refusal.value)) < 400


def test_without_timm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for ask in (resolve, preprocessing):
        with pytest.raises(ModelError, match=r"pip install 'slimcnn\[timm\]'"):
            ask("timm:resnet18")


def test_a_class_of_the_current_directory(their: str) -> None:
    model = resolve("their_net:Net", width=6, num_classes=3, in_channels=3)
    assert label(model) == {"model": "their_net:Net", "arguments": {"width": 6, "num_classes": 3}}
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert not any(folder == str(Path.cwd()) for folder in sys.path)


def test_common_arguments_are_left_out_where_nobody_takes_them(their: str) -> None:
    assert label(resolve("their_net:fixed", num_classes=3, in_channels=1))["arguments"] == {}
    assert resolve("their_net:anything", num_classes=3, depth=2).seen == {"num_classes": 3, "depth": 2}


def test_an_argument_that_json_cannot_hold_is_refused(their: str) -> None:
    for value in (object(), float("nan")):
        with pytest.raises(ModelError, match="arguments of their_net:anything must be JSON values"):
            resolve("their_net:anything", width=value)


def test_nested_names_and_late_imports_work(their: str) -> None:
    assert isinstance(resolve("their_net:Factory.make"), nn.Sequential)
    assert isinstance(resolve("their_net:lazy_import"), nn.Linear)


def test_a_function_of_an_installed_package() -> None:
    assert isinstance(resolve("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("their_net:missing", "module 'their_net' has no 'missing'"),
        ("no_such_file:build", "no module 'no_such_file' .* nor in the current directory"),
        ("torch.no_such_part:build", "no module 'torch.no_such_part'"),
        ("their_net.py:build", "write package.module:function, with dots, no path"),
        ("folder/their_net:build", "write package.module:function, with dots, no path"),
        ("their_net:", "write package.module:function"),
        (":build", "write package.module:function"),
        ("their_broken:build", r"failed: ModuleNotFoundError: .*nothing_of_that_name.* \(their_broken.py, line 2\)"),
        ("their_syntax:build", "importing 'their_syntax' .* failed: SyntaxError"),
        ("their_net:breaks", r"cannot be built: RuntimeError: no such block \(their_net.py, line \d+\)"),
        ("their_net:leaves", "cannot be built: SystemExit: 3"),
        ("their_net:wrong", "returned a dict, not a torch.nn.Module"),
        ("their_net:built", "is a Linear: name a function or class"),
        ("their_net:number", "is a int: name a function or class"),
        ("their_net:taken", "already has an attribute 'architecture'"),
    ],
)
def test_mistakes_in_a_users_network_are_one_line(spec: str, complaint: str, their: str) -> None:
    with pytest.raises(ModelError, match=complaint) as refusal:
        resolve(spec)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("their_net:Net", "their_net:Net has no argument 'depth'; it takes width, num_classes"),
        ("their_net:fixed", "their_net:fixed has no argument 'depth'; it takes none"),
        ("timm:resnet10t", "timm:resnet10t cannot be built: TypeError: .*'depth'"),
        ("torchvision:resnet18", "torchvision:resnet18 cannot be built: TypeError: .*'depth'"),
        ("resnet20", "resnet20 has no argument 'depth'"),
    ],
)
def test_an_argument_that_nobody_takes_is_refused(spec: str, complaint: str, their: str) -> None:
    with pytest.raises(ModelError, match=complaint) as refusal:
        resolve(spec, depth=3)
    assert "\n" not in str(refusal.value)


def test_an_unknown_timm_tag_is_refused_in_one_line() -> None:
    with pytest.raises(UnknownName, match=r"tag of a timm network .resnet18\.foo.: did you mean"):
        resolve("timm:resnet18.foo")


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("vgg16", Preprocessing((3, 32, 32))),
        ("resnet8", Preprocessing((1, 8, 8))),
        ("timm:resnet18", Preprocessing((3, 224, 224), *IMAGENET, 235, "bicubic")),
        ("timm:vit_tiny_patch16_224", Preprocessing((3, 224, 224), (0.5,) * 3, (0.5,) * 3, 248, "bicubic")),
        ("torchvision:resnet18", Preprocessing((3, 224, 224), *IMAGENET, 256, "bilinear")),
        ("torchvision:vit_b_16", Preprocessing((3, 224, 224), *IMAGENET, 256, "bilinear")),
        ("torchvision:vit_h_14", Preprocessing((3, 224, 224), *IMAGENET)),
        ("torchvision:fasterrcnn_resnet50_fpn", Preprocessing()),
        ("my_package.my_module:build", Preprocessing()),
    ],
)
def test_preprocessing_is_what_the_weights_state(spec: str, expected: Preprocessing) -> None:
    assert preprocessing(spec) == expected


def test_preprocessing_of_a_network_knows_its_channels() -> None:
    assert preprocessing(resolve("resnet20", in_channels=1)) == Preprocessing((1, 32, 32))
    assert preprocessing(resolve("timm:resnet10t", in_channels=1)).mean is None
    assert preprocessing(resolve("timm:resnet10t", in_channels=3)).mean == IMAGENET[0]
    assert preprocessing(nn.Linear(1, 1)) == Preprocessing()


@pytest.mark.parametrize("spec", ["resnet65", "timm:resnet81", "torchvision:resnt18"])
def test_preprocessing_of_an_unknown_name_gets_a_suggestion(spec: str) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        preprocessing(spec)
