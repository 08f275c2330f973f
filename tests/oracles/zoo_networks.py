"""The networks of the zoo: names, constructors and image sizes.

Every classification constructor of torchvision, its segmentation, detection and video networks, and one timm network per
family and variant idea. All are built without pretrained weights.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import zoo_packages
from torch import Tensor, nn

SIZES = (128, 160, 192, 224, 256)
"""Image sizes to try, smallest first to keep the sweep short; the network's own size is the last."""

TRANSFORMERS = """vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 swin_b swin_s swin_t swin_v2_b swin_v2_s
    swin_v2_t""".split()
"""Constructors of torchvision that are not convolutional networks."""

SEGMENTATION = """fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large
    lraspp_mobilenet_v3_large""".split()

DETECTION = """ssdlite320_mobilenet_v3_large ssd300_vgg16 retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn
    fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2""".split()

VIDEO = "r3d_18 mc3_18 r2plus1d_18 s3d".split()

CIFAR = "resnet56 resnet164 vgg16".split()
"""Networks of slimcnn for 32 x 32 images; resnet56's shortcut appends channels of zeros, as in its paper."""

TIMM = """
    resnet10t resnet14t resnet18 resnet26 resnet26d resnet26t resnet50c resnet50d resnet50s resnet50t resnet50_gn
    resnetaa34d resnetaa50 resnetblur18 resnetblur50 resnetrs50 resnext50_32x4d wide_resnet50_2
    seresnet18 seresnet50 seresnet50t seresnetaa50d seresnext26d_32x4d seresnext26t_32x4d
    ecaresnet26t ecaresnet50d ecaresnet50d_pruned ecaresnet101d_pruned ecaresnetlight ecaresnext26t_32x4d
    legacy_seresnet18 legacy_seresnext26_32x4d legacy_senet154
    resnetv2_18 resnetv2_50 resnetv2_50d resnetv2_50d_gn resnetv2_50d_evos resnetv2_50d_frn resnetv2_50x1_bit
    skresnet18 skresnet50 skresnext50_32x4d resnest14d resnest26d resnest50d_4s2x40d
    res2net50_14w_8s res2net50_26w_4s res2net50d res2next50
    dla34 dla46_c dla46x_c dla60 dla60_res2net dla60x
    hrnet_w18_small hrnet_w18_small_v2 hrnet_w18
    densenet121 densenet201 densenetblur121d rdnet_tiny
    dpn48b dpn68 dpn92
    cspresnet50 cspresnet50d cspresnext50 cspdarknet53 darknet17 darknet53 darknetaa53 sedarknet21 cs3darknet_s
    cs3darknet_focus_s cs3edgenet_x cs3sedarknet_l cs3sedarknet_xdw cspnext_tiny
    vovnet39a ese_vovnet19b_dw ese_vovnet39b eca_vovnet39b ese_vovnet39b_evos
    ghostnet_100 ghostnetv2_100 ghostnetv3_050 repghostnet_050
    mobilenetv1_100 mobilenetv2_050 mobilenetv2_110d mobilenetv3_large_100 mobilenetv3_rw mobilenetv3_small_050
    tf_mobilenetv3_small_minimal_100 tf_mobilenetv3_large_100 mobilenetv4_conv_small mobilenetv4_conv_aa_medium
    mobilenetv4_conv_blur_medium mobilenetv4_hybrid_medium mobilenet_edgetpu_100 mobilenet_edgetpu_v2_xs
    mobileone_s0 mobileone_s4 repvgg_a0 repvgg_b1g4 repvgg_d2se repvit_m0_9 repvit_m1_0
    fbnetc_100 fbnetv3_b mixnet_s tf_mixnet_s tinynet_a tinynet_e lcnet_050 lcnetv2_base hardcorenas_a mnasnet_050
    mnasnet_small semnasnet_075 spnasnet_100
    efficientnet_b0 efficientnet_b0_gn efficientnet_b0_g16_evos efficientnet_b1_pruned efficientnet_b2_pruned
    efficientnet_b3_pruned efficientnet_blur_b0 efficientnet_cc_b0_4e efficientnet_es efficientnet_es_pruned
    efficientnet_el_pruned efficientnet_lite0 efficientnet_x_b3 efficientnetv2_rw_t efficientnetv2_s
    gc_efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnet_es tf_efficientnetv2_b0 tf_efficientnet_cc_b0_8e
    rexnet_100 rexnetr_100
    regnetx_002 regnety_002 regnety_040_sgn regnetz_005 regnetz_040_h regnetv_040 regnetz_b16 regnetz_c16_evos regnetz_d8
    nfnet_l0 eca_nfnet_l0 dm_nfnet_f0 nf_regnet_b0 nf_resnet26 nf_ecaresnet26 nf_seresnet26
    legacy_xception xception41 xception41p
    convnext_atto convnext_atto_ols convnext_atto_rms convnext_tiny_hnf convnextv2_atto
    edgenext_xx_small edgenext_small_rw inception_next_atto inception_next_tiny fastvit_t8 fastvit_sa12 fastvit_mci0
    inception_resnet_v2 inception_v3 inception_v4
    selecsls42 selecsls42b selecsls60 selecsls84
    tresnet_m tresnet_v2_l gernet_s gernet_m
    resnet32ts resnet33ts resnet51q resnet61q resnext26ts seresnext26ts eca_resnext26ts gcresnet33ts gcresnext26ts
    gcresnet50t bat_resnext26ts resnet50_clip resnet50_mlp
    nasnetalarge pnasnet5large vgg11 vgg11_bn hgnet_tiny hgnetv2_b0 hgnetv2_b1 convmixer_768_32
    starnet_s1 fasternet_t0 mambaout_femto convformer_s18 poolformer_s12 poolformerv2_s12
""".split()

HYBRIDS = """
    botnet26t_256 halonet26t lambda_resnet26t sehalonet33ts haloregnetz_b mobilevit_xxs mobilevitv2_050 coatnet_nano_rw_224
    coatnext_nano_rw_224 maxvit_pico_rw_256 efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0
    levit_128s levit_conv_128s swiftformer_xs shvit_s1 nextvit_small tiny_vit_5m_224 caformer_s18 visformer_tiny
    lowformer_b0 iformer_t cpubone_nano
""".split()
"""Networks of timm with convolutions and attention."""


@dataclass(frozen=True)
class Subject:
    """A network to prune, with its example input."""

    model: nn.Module
    example: Tensor
    classifiers: tuple[nn.Module, ...]
    """The layers that produce the network's outputs, for libraries that need this information."""


def names() -> list[str]:
    """Return the names of all networks, as `torchvision:NAME`, `timm:NAME` and so on (see `BUILDERS`)."""
    import torchvision

    classification = torchvision.models.list_models(module=torchvision.models)
    return [
        *(f"torchvision:{name}" for name in classification if name not in TRANSFORMERS),
        *(f"segmentation:{name}" for name in SEGMENTATION),
        *(f"detection:{name}" for name in DETECTION),
        *(f"video:{name}" for name in VIDEO),
        *(f"slimcnn:{name}" for name in CIFAR),
        *(f"timm:{name}" for name in (*TIMM, *HYBRIDS)),
    ]


def build(name: str, sizes: tuple[int, ...] = SIZES) -> Subject:
    """Build a network in eval mode with the smallest image that it accepts: of `sizes`, or else its own size."""
    torch.manual_seed(0)
    family, _, kind = name.partition(":")
    model = BUILDERS[family](kind).eval()
    return Subject(model, example_for(model, family, sizes), classifiers(model, family))


def _torchvision(name: str) -> nn.Module:
    import torchvision

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def _segmentation(name: str) -> nn.Module:
    import torchvision

    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    make = getattr(torchvision.models.segmentation, name)
    model: nn.Module = make(weights=None, weights_backbone=None, **options)
    return model


def _detection(name: str) -> nn.Module:
    import torchvision

    return Detector(getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None))


def _video(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = getattr(torchvision.models.video, name)(weights=None)
    return model


def _timm(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _slimcnn(name: str) -> nn.Module:
    import slimcnn

    return slimcnn.build(name)


BUILDERS = {
    "torchvision": _torchvision,
    "segmentation": _segmentation,
    "detection": _detection,
    "video": _video,
    "slimcnn": _slimcnn,
    "timm": _timm,
    **zoo_packages.BUILDERS,
}


class Detector(nn.Module):
    """The learned layers of a torchvision detector, without box arithmetic: from a batch to a dict of predictions.

    Backbone, feature pyramid and heads run as in the detector. A detector with region proposals uses two fixed regions
    per image. The attribute `detector` is the detector itself, before and after pruning.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Return the predictions for images (n, 3, h, w); every tensor has n as its first axis."""
        detector: Any = self.detector
        features = detector.backbone(images)
        if isinstance(features, Tensor):
            features = OrderedDict([("0", features)])
        if hasattr(detector, "head"):
            predictions = detector.head(list(features.values()))
            return {name: [value] if isinstance(value, Tensor) else value for name, value in predictions.items()}
        objectness, shifts = detector.rpn.head(list(features.values()))
        n, _, height, width = images.shape
        corners = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 1.0]], dtype=images.dtype)
        boxes = [corners * torch.tensor([width, height, width, height], dtype=images.dtype) for _ in range(n)]
        regions = detector.roi_heads
        seen = regions.box_head(regions.box_roi_pool(features, boxes, [(height, width)] * n))
        classes, places = regions.box_predictor(seen)
        return {
            "objectness": objectness, "shifts": shifts, "classes": [classes.view(n, 2, -1)], "boxes": [places.view(n, 2, -1)],
        }  # fmt: skip


@torch.no_grad()
def example_for(model: nn.Module, family: str, sizes: tuple[int, ...]) -> Tensor:
    """Return a random batch of one image, of the first size that the network accepts."""
    channels, size = _own_input(model, family)
    sides = {"video": (64, 224), "smp": (64, *sizes)}.get(family, (32,) if size == 32 else (*sizes, size))
    for side in sides:
        shape = (1, channels, 16, side, side) if family == "video" else (1, channels, side, side)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            model(example)
        except Exception:
            if side == sides[-1]:
                raise
        else:
            return example
    raise AssertionError("unreachable")


def _own_input(model: Any, family: str) -> tuple[int, int]:
    """Return the number of channels and the size of the images that a network is made for."""
    if family == "pytorchcv":
        return getattr(model, "in_channels", 3), max(model.in_size)
    if family in ("slimcnn", "detection"):
        return 3, 32 if family == "slimcnn" else 320
    channels, _, size = (getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
    return channels, size


def larger(example: Tensor) -> Tensor:
    """Return a random batch of images whose sides are 1.5 times as long."""
    sides = [side * 3 // 2 for side in example.shape[-2:]]
    return torch.randn((*example.shape[:-2], *sides), generator=torch.Generator().manual_seed(1))


def classifiers(model: nn.Module, family: str) -> tuple[nn.Module, ...]:
    """Return the layers that produce the network's outputs: by the number of classes, or a detector's predictors."""
    if family == "detection":
        return tuple(_predictors(model))
    classes = {"segmentation": 21, "video": 400, "slimcnn": 10}.get(family) or getattr(model, "num_classes", 1000)
    return tuple(
        module
        for module in model.modules()
        if getattr(module, "out_features", None) == classes or getattr(module, "out_channels", None) == classes
    )


def _predictors(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a detector that produce its outputs."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    ends = ("cls_logits", "bbox_reg", "bbox_ctrness", "bbox_pred", "cls_score")
    found: list[nn.Module] = [layer for name, layer in layers.items() if name.endswith(ends)]
    for name in ("classification_head", "regression_head"):
        head = getattr(getattr(getattr(model, "detector", None), "head", None), name, None)
        for branch in getattr(head, "module_list", ()):
            found.append([m for m in branch.modules() if isinstance(m, nn.Conv2d)][-1])
    return found
