"""A classifier written as ONNX by hand, so that tests of the page need no exporter, and its answers in Python."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from slimcnn.datasets import Normalization
from slimcnn.datasets.scaling import AS_LARGE, Scaling
from slimcnn.playground import Playground, Sample, ShownNetwork

CLASSES = ("cat", "dog", "a <b>bold</b> & \"quoted\" 'class'", "</script><script>alert(1)</script>", "ship", "frog")
MEANS = {1: (0.4,), 3: (0.49, 0.48, 0.45)}
STDS = {1: (0.3,), 3: (0.25, 0.24, 0.26)}


def classifier(channels: int, height: int, width: int, seed: int, baked: bool = False) -> bytes:
    """A convolution, ReLU, mean and linear layer; `baked`: takes uint8 pixels and normalizes them itself."""
    random = np.random.default_rng(seed)
    constants = {
        "filters": random.normal(size=(8, channels, 3, 3)) * 0.4,
        "weights": random.normal(size=(8, len(CLASSES))) * 2,
    }
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["convolved"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
    ]
    if baked:
        mean, std = (np.array(each[channels]).reshape(1, -1, 1, 1) for each in (MEANS, STDS))
        constants |= {"scale": 1 / (255 * std), "shift": -mean / std}
        nodes[:0] = [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["x"]),
        ]
    kind, name = (TensorProto.UINT8, "pixels") if baked else (TensorProto.FLOAT, "x")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, [1, channels, height, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(CLASSES)])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def playground(
    channels: int = 3, height: int = 16, width: int = 16, n_samples: int = 3, scaling: Scaling = AS_LARGE
) -> Playground:
    """Three networks: the second is another one, the third the first with its normalization baked in."""
    random = np.random.default_rng(5)
    shape = (height, width, 3) if channels == 3 else (height, width)
    samples = []
    for number in range(n_samples):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(buffer, "PNG")
        samples.append(Sample(buffer.getvalue(), CLASSES[number]))
    return Playground(
        title="tiny on <noise>",
        networks=(
            ShownNetwork("original", classifier(channels, height, width, 1), (("test top-1", "93.39 %"),)),
            ShownNetwork("compressed", classifier(channels, height, width, 2), (("test top-1", "92.10 %"),)),
            ShownNetwork("compressed, int8", classifier(channels, height, width, 1, baked=True)),
        ),
        classes=CLASSES,
        input=(channels, height, width),
        normalization=Normalization(MEANS[channels], STDS[channels]),
        samples=tuple(samples),
        scaling=scaling,
    )


def fitted(image: Image.Image, what: Playground) -> np.ndarray:
    """Pixels (c, h, w) as slimcnn reads image files (see slimcnn.datasets.pictures)."""
    channels, height, width = what.input
    upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    resize, method = what.scaling.resize, Image.Resampling[what.scaling.interpolation.upper()]
    if resize is None:
        found = np.asarray(ImageOps.fit(upright, (width, height), method))
    else:
        expected = Compose([Resize(resize, InterpolationMode(what.scaling.interpolation)), CenterCrop((height, width))])
        found = np.asarray(expected(upright))
    return found.reshape(height, width, channels).transpose(2, 0, 1)


def answers(what: Playground, pixels: np.ndarray) -> list[np.ndarray]:
    """Each network's probabilities for pixels (c, h, w), by ONNX Runtime in Python."""
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (what.normalization.mean, what.normalization.std))
    found = []
    for network in what.networks:
        session = onnxruntime.InferenceSession(network.onnx, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        x = pixels if entry.type == "tensor(uint8)" else ((pixels / 255 - mean) / std).astype(np.float32)
        scores = session.run(None, {entry.name: x[None]})[0][0].astype(np.float64)
        powers = np.exp(scores - scores.max())
        found.append(powers / powers.sum())
    return found
