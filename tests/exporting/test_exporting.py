"""Exported files answer as the network does; what cannot be exported is refused in one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slimcnn
from at_hand import Net, randomize
from slimcnn.datasets import Normalization
from slimcnn.errors import ExportError, SlimcnnError, UnknownName
from slimcnn.exporting import (
    RUNTIMES,
    FileFormat,
    Options,
    export,
    file_digest,
    formats,
    open_in,
    prepare,
    read_parity,
    source_digest,
    writing,
)
from slimcnn.exporting.readers import onnxruntime as reader

READERS = Path(reader.__file__).parent
NAMES = [entry.name for entry in formats]
RUN_HERE = [name for name in NAMES if not RUNTIMES[formats[name].value.runtime].here]


OFTEN = {"onnx", "openvino", "torchscript"}
"""Formats with which `make test` tries every option."""


def often(names: list[str]) -> list[Any]:
    return [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in names]


def small(channels: int = 3) -> nn.Module:
    """A residual network with a slice of step 2, batch norms and a linear layer, for images of 8x8."""

    def run(n: Net, x: Tensor) -> Tensor:
        y = torch.relu(n.norm(n.stem(x)))
        z = torch.relu(n.down_norm(n.down(y)) + y[:, :, ::2, ::2])
        return n.head(z.mean((2, 3)))

    net = Net(run, stem=nn.Conv2d(channels, 8, 3, padding=1, bias=False), norm=nn.BatchNorm2d(8),
              down=nn.Conv2d(8, 8, 3, 2, 1), down_norm=nn.BatchNorm2d(8), head=nn.Linear(8, 4))  # fmt: skip
    randomize(net)
    return net.eval()


@pytest.mark.parametrize("name", often(RUN_HERE))
def test_a_fresh_process_answers_as_the_network_does_on_real_images(name: str, tmp_path: Path) -> None:
    data = slimcnn.load_dataset("digits")
    net = small(1)
    before = source_digest(net)
    images = data.test.pixels[:24]
    (file,) = export(net, torch.zeros(1, 1, 8, 8), name, out=tmp_path, images=images, normalization=data.normalization,
                     classes=data.classes)  # fmt: skip
    assert (file.parity.status, file.parity.images, file.parity.agreement) == ("equal", 24, 100.0)
    assert file.parity.max_error is not None
    assert file.parity.max_error < 1e-5
    assert source_digest(net) == before == file.source
    known = read_parity(tmp_path)[name]
    assert known["status"] == "equal"
    assert set(known["files"]) == {path.name for path in file.files}
    x = data.normalization(images[:1])
    there = open_in(formats[name].value.runtime, file.path, threads=1)(x)
    assert torch.allclose(there, net(x).detach(), atol=1e-4)


@pytest.mark.parametrize("name", often([name for name in NAMES if formats[name].value.dynamic_batch]))
def test_a_file_takes_any_number_of_images_where_its_runtime_can(name: str, tmp_path: Path) -> None:
    net = small()
    (file,) = export(net, torch.zeros(1, 3, 8, 8), name, out=tmp_path)
    opened = open_in(file.runtime, file.path, threads=1)
    for n in (1, 2, 5):
        x = torch.randn(n, 3, 8, 8)
        assert torch.allclose(opened(x), net(x).detach(), atol=1e-4)


@pytest.mark.parametrize("name", often(NAMES))
def test_images_of_any_size_work_or_are_refused(name: str, tmp_path: Path) -> None:
    net = small()
    if not formats[name].value.dynamic_size:
        with pytest.raises(ExportError, match="does not support images of any size"):
            export(net, torch.zeros(1, 3, 8, 8), name, out=tmp_path, dynamic_size=True)
        return
    (file,) = export(net, torch.zeros(1, 3, 8, 8), name, out=tmp_path, dynamic_size=True)
    x = torch.randn(2, 3, 12, 10)
    assert torch.allclose(open_in(file.runtime, file.path, 1)(x), net(x).detach(), atol=1e-4)


@pytest.mark.parametrize("name", often(NAMES))
def test_with_its_normalization_inside_a_file_takes_pixels_or_the_format_refuses(name: str, tmp_path: Path) -> None:
    net, normal = small(), Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    options = {"images": pixels, "normalization": normal, "bake_normalization": True}
    if not formats[name].value.pixels:
        with pytest.raises(ExportError, match="uint8"):
            export(net, torch.zeros(1, 3, 8, 8), name, out=tmp_path, **options)
        return
    (file,) = export(net, torch.zeros(1, 3, 8, 8), name, out=tmp_path, **options)
    assert file.parity.status == "equal"
    there = open_in(file.runtime, file.path, 1)(pixels[:1])
    assert torch.allclose(there, net(normal(pixels[:1])).detach(), atol=1e-4)


def test_facts_are_inside_the_file_and_no_path_of_this_machine(tmp_path: Path) -> None:
    import onnx

    net, normal = small(), Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    scaling = {"resize": 256, "interpolation": "bilinear"}
    (file,) = export(
        net, torch.zeros(1, 3, 8, 8), out=tmp_path, classes=("a", "b", "c", "d"), normalization=normal, scaling=scaling
    )
    model = onnx.load(file.path)
    facts = {one.key: one.value for one in model.metadata_props}
    assert json.loads(facts["classes"]) == ["a", "b", "c", "d"]
    assert json.loads(facts["normalization"]) == {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    assert json.loads(facts["scaling"]) == scaling
    assert (facts["layout"], facts["source"]) == ("NCHW", source_digest(net))
    assert model.opset_import[0].version == 18
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "", ""]
    assert str(Path(__file__).parent).encode() not in file.path.read_bytes()
    assert [node.name for node in model.graph.node][:2] == ["stem/Conv", "Relu"]
    assert "MaxPool" in [node.op_type for node in model.graph.node]


def test_what_cannot_run_here_is_written_and_says_so(tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("needs a machine without Core ML")
    net = small()
    (file,) = export(net, torch.zeros(1, 3, 8, 8), "coreml", out=tmp_path, classes=("a", "b", "c", "d"))
    assert (file.parity.status, file.parity.why) == ("not run", "Core ML does not run on linux")
    known = read_parity(tmp_path)["coreml"]
    assert (known["status"], known["max_error"]) == ("not run", None)
    assert known["bytes"] > 4 * sum(parameter.numel() for parameter in net.parameters())
    assert known["files"] == {"model.mlpackage": file_digest(tmp_path / "model.mlpackage")}


@pytest.mark.parametrize("name", ["onnx", "openvino", "ncnn", pytest.param("executorch", marks=pytest.mark.slow)])
def test_an_operation_that_a_format_does_not_know_is_named_with_its_layer(name: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Net(lambda n, x: torch.igamma(x.abs() + 1, x.abs())), nn.Conv2d(4, 2, 1))
    with pytest.raises(ExportError, match=r"does not support the operation igamma in layer '1' \(Net\)") as refusal:
        export(net, torch.zeros(1, 3, 8, 8), name, out=tmp_path)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_openvino_files_hold_facts_too(tmp_path: Path) -> None:
    import openvino

    net = small()
    (file,) = export(net, torch.zeros(1, 3, 8, 8), "openvino", out=tmp_path, classes=("a", "b", "c", "d"))
    model = openvino.Core().read_model(file.path)
    assert json.loads(model.get_rt_info(["slimcnn", "classes"]).astype(str)) == ["a", "b", "c", "d"]
    assert model.input(0).get_any_name() == "input"
    assert str(model.input(0).partial_shape) == "[?,3,8,8]"
    assert str(model.input(0).get_partial_shape()) == "[?,3,8,8]"


def test_a_signal_after_two_openvino_files_were_closed_does_not_crash_the_process(tmp_path: Path) -> None:
    (file,) = export(small(), torch.zeros(1, 3, 8, 8), "openvino", out=tmp_path)
    code = f"""
import gc, signal
from slimcnn.exporting import open_in
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first, second = (open_in("openvino", {str(file.path)!r}, 1) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n")


@pytest.mark.parametrize("name", [name for name in RUN_HERE if RUNTIMES[formats[name].value.runtime].without_torch])
def test_readers_need_numpy_and_their_runtime_only(name: str) -> None:
    tree = ast.parse((READERS / f"{formats[name].value.runtime}.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    packages = RUNTIMES[formats[name].value.runtime].packages
    assert {each.split(".")[0] for each in imported if each} <= {
        "__future__", "collections", "typing", "os", "pathlib", "numpy", *packages,
    }  # fmt: skip


def test_a_reader_that_imports_torch_fails_the_fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import torch\n")
    monkeypatch.setattr("slimcnn.exporting.parity.reader_of", lambda runtime: bad)
    with pytest.raises(ExportError, match=r"cannot run model.onnx: .*torch"):
        export(small(), torch.zeros(1, 3, 8, 8), out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_answers_otherwise_is_an_error_and_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = small(), small()
    with torch.no_grad():
        other.head.bias += torch.tensor([0.0, 9.0, 0.0, 0.0])
    monkeypatch.setattr(writing, "prepare", lambda model, *args, **options: prepare(other, *args, **options))
    with pytest.raises(ExportError, match=r"outputs differ .* a different top-1.*model.mismatch.onnx") as refusal:
        export(net, torch.zeros(1, 3, 8, 8), out=tmp_path)
    assert "\n" not in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir()} == {"model.mismatch.onnx"}


def test_two_lines_run_the_file_without_slimcnn(tmp_path: Path) -> None:
    net = small()
    export(net, torch.zeros(1, 3, 8, 8), out=tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy; sys.modules['slimcnn'] = sys.modules['torch'] = None; x = numpy.load('x.npy')\n"
        "import onnxruntime; session = onnxruntime.InferenceSession('model.onnx')\n"
        "numpy.save('y.npy', session.run(None, {'input': x})[0])\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert np.allclose(np.load(tmp_path / "y.npy"), net(torch.from_numpy(x)).detach().numpy(), atol=1e-4)


def test_two_inputs_and_a_table_of_outputs_get_names(tmp_path: Path) -> None:
    def run(n: Net, image: Tensor, gain: Tensor) -> dict[str, object]:
        y = n.conv(image) * gain[:, :, None, None]
        return {"maps": [y, y.relu()], "mean": y.mean((2, 3)), "stride": 8}

    net = Net(run, conv=nn.Conv2d(3, 4, 3))
    example = {"image": torch.zeros(1, 3, 8, 8), "gain": torch.zeros(1, 4)}
    (file,) = export(net, example, out=tmp_path)
    import onnxruntime

    session = onnxruntime.InferenceSession(file.path)
    assert [one.name for one in session.get_inputs()] == ["input0", "input1"]
    assert [one.name for one in session.get_outputs()] == ["output0", "output1", "output2"]
    x, gain = torch.randn(3, 3, 8, 8), torch.randn(3, 4)
    first, _, mean = open_in("onnxruntime", file.path, 1)(x, gain)
    wanted = net(x, gain)
    assert torch.allclose(first, wanted["maps"][0].detach(), atol=1e-5)
    assert torch.allclose(mean, wanted["mean"].detach(), atol=1e-5)


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds str"):
        export(small(), (torch.zeros(1, 3, 8, 8), "mode"), out=tmp_path)


def test_code_that_depends_on_values_is_refused_in_one_line(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(ExportError, match="Odd cannot be turned into a graph") as refusal:
        export(Odd(), torch.ones(1, 3), out=tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_folder_with_the_export_of_another_network_is_refused_unless_forced(tmp_path: Path) -> None:
    example = torch.zeros(1, 3, 8, 8)
    export(small(), example, out=tmp_path)
    other = small()
    with torch.no_grad():
        other.head.bias += 1
    with pytest.raises(ExportError, match="export of another network"):
        export(other, example, "openvino", out=tmp_path)
    export(other, example, "openvino", out=tmp_path, force=True)
    assert set(read_parity(tmp_path)) == {"openvino"}
    export(other, example, out=tmp_path)
    assert set(read_parity(tmp_path)) == {"onnx", "openvino"}


def test_unknown_formats_and_missing_packages_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="unknown format 'onxn': did you mean 'onnx'"):
        export(small(), torch.zeros(1, 3, 8, 8), "onxn", out=tmp_path)
    for name in NAMES:
        one: type[FileFormat] = formats[name].value
        if not one.packages:
            continue
        monkeypatch.setattr(one, "packages", ("no_such_package",))
        with pytest.raises(ExportError, match=rf"needs no_such_package: pip install 'slimcnn\[{one.extra}\]'"):
            one().check(name, Options(), pixels=False)


def test_a_runtime_refuses_what_it_cannot_open_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(SlimcnnError, match="ONNX Runtime cannot open") as refusal:
        open_in("onnxruntime", tmp_path / "model.onnx")
    assert "\n" not in str(refusal.value)
    with pytest.raises(ExportError, match="no file"):
        open_in("onnxruntime", tmp_path / "other.onnx")


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ExportError, match=r"cannot use .*taken: .*; choose another --out"):
        slimcnn.export(small(), torch.zeros(1, 3, 8, 8), "torchscript", out=tmp_path / "taken")
