"""More networks of the zoo, from packages that the tests do not install: segmentation_models_pytorch, transformers, pytorchcv.

All are built from configurations, with random weights; nothing is downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

PACKAGES = {"smp": "segmentation_models_pytorch", "transformers": "transformers", "pytorchcv": "pytorchcv"}
"""Prefix of a name → package that must be installed."""

ENCODERS = {
    "Unet": "densenet121", "UnetPlusPlus": "vgg11_bn", "MAnet": "xception", "Linknet": "inceptionv4", "FPN": "dpn68",
    "PSPNet": "timm-tf_efficientnet_lite0", "PAN": "se_resnext50_32x4d", "DeepLabV3": "timm-skresnet18",
    "DeepLabV3Plus": "mobileone_s0", "UPerNet": "tu-convnext_atto", "Segformer": "tu-hrnet_w18_small",
}  # fmt: skip
"""Architecture of segmentation_models_pytorch → its third encoder, after resnet18 and efficientnet-b0."""

PYTORCHCV = """
    densenet40_k12_cifar10 pyramidnet110_a48_cifar10 fractalnet_cifar10 ror3_56_cifar10 rir_cifar10 nin_cifar10
    shakeshakeresnet20_2x16d_cifar10 shakedropresnet20_cifar10 resdropresnet20_cifar10 resnext20_16x4d_cifar10
    resnet10 preresnet18 seresnet10 sepreresnet10 diaresnet10 diapreresnet10 diracnet18v2 sharesnet18 octresnet10_ad2
    condensenet74_c4_g4 channelnet dicenet_wd2 espnetv2_wd2 revnet38 msdnet22 darknet_tiny dla34 vovnet27s hardnet39ds
    shufflenet_g4_w1 shufflenetv2_wd2 shufflenetv2b_wd2 menet108_8x1_g3 ghostnet mixnet_s igcv3_wd2 squeezenet_v1_1
    squeezeresnet_v1_1 sqnxt23_w1 mobilenetv3_small_w1 mnasnet_a1 regnetx002 efficientnet_b0 bam_resnet18 cbam_resnet18
    resnesta18 scnet50 peleenet sparsenet121 darts dpn68 bninception ibn_resnet50 hrnet_w18_small_v1 bagnet9
    unet_cityscapes enet_cityscapes erfnet_cityscapes esnet_cityscapes lednet_cityscapes linknet_cityscapes
    sqnet_cityscapes espcnet_cityscapes edanet_cityscapes cgnet_cityscapes ctxnet_cityscapes dabnet_cityscapes
    fpenet_cityscapes sinet_cityscapes fastscnn_cityscapes icnet_resnetd50b_cityscapes bisenet_resnet18_celebamaskhq
    danet_resnetd50b_cityscapes simplepose_resnet18_coco simplepose_mobile_resnet18_coco centernet_resnet18_coco
    lwopenpose2d_mobilenet_cmupan_coco lffd20x5s320v2_widerface prnet ibppose_coco
    xception inceptionv3 inceptionv4 nasnet_4a1056 fishnet99 airnet50_1x64d_r16 airnext50_32x4d_r2 sknet50 resattnet56
    isqrtcovresnet18
""".split()

OPTIONS: dict[str, dict[str, Any]] = {
    "fastscnn_cityscapes": {"in_size": (128, 128)},
    "icnet_resnetd50b_cityscapes": {"in_size": (128, 128)},
    "bisenet_resnet18_celebamaskhq": {"in_size": (128, 128)},
}
"""Network of pytorchcv → options: a small image where the code has its size as a number."""

SIZES = {"hidden_sizes": [32, 64, 128, 256]}
RESIDUAL = {"embedding_size": 32, **SIZES, "depths": [1, 2, 2, 1]}
PLAIN = {**SIZES, "depths": [1, 1, 2, 1]}
PYRAMID = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
MOBILE_VIT = {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320]}
UPERNET = {"hidden_size": 64, "auxiliary_in_channels": 128, "auxiliary_channels": 32}
DETR = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip
TEXTNET = {
    "stem_num_channels": 3, "stem_out_channels": 32, "hidden_sizes": [32, 32, 64, 128, 256],
    "conv_layer_kernel_sizes": [[[3, 3], [3, 3]], [[3, 1], [1, 3]], [[3, 3], [3, 1]], [[3, 3], [1, 3]]],
    "conv_layer_strides": [[2, 1]] * 4,
}  # fmt: skip
HGNET = {
    "stem_channels": [3, 16, 32], "stage_in_channels": [32, 64, 128, 256], "stage_mid_channels": [16, 24, 32, 64],
    "stage_out_channels": [64, 128, 256, 512], "hidden_sizes": [64, 128, 256, 512],
}  # fmt: skip
HYBRID = {
    "is_hybrid": True, "image_size": 128, "backbone_featmap_shape": [1, 1024, 8, 8], "hidden_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 128, "neck_hidden_sizes": [256, 512, 64, 64],
    "fusion_hidden_size": 32, "backbone_out_indices": [0, 1, 2, 3],
}  # fmt: skip

TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNetModel": ("ResNet", RESIDUAL),
    "ResNetForImageClassification": ("ResNet", RESIDUAL),
    "ResNetForImageClassification/basic": ("ResNet", RESIDUAL | {"layer_type": "basic"}),
    "ResNetBackbone": ("ResNet", RESIDUAL | {"out_features": ["stage2", "stage4"]}),
    "RegNetForImageClassification/x": ("RegNet", RESIDUAL | {"groups_width": 16, "layer_type": "x"}),
    "RegNetForImageClassification/y": ("RegNet", RESIDUAL | {"groups_width": 16}),
    "BitForImageClassification": ("Bit", RESIDUAL | {"hidden_sizes": [128, 256, 384, 512]}),
    "BitForImageClassification/bottleneck": (
        "Bit",
        RESIDUAL | {"hidden_sizes": [128, 256, 384, 512], "layer_type": "bottleneck"},
    ),
    "RTDetrResNetBackbone": ("RTDetrResNet", RESIDUAL | STAGES),
    "ConvNextForImageClassification": ("ConvNext", PLAIN),
    "ConvNextV2ForImageClassification": ("ConvNextV2", PLAIN),
    "DINOv3ConvNextModel": ("DINOv3ConvNext", PLAIN),
    "PoolFormerForImageClassification": ("PoolFormer", PLAIN),
    "FocalNetForImageClassification": ("FocalNet", {"embed_dim": 32, "depths": [1, 1, 2, 1]}),
    "MobileNetV1ForImageClassification": ("MobileNetV1", {"depth_multiplier": 0.5}),
    "MobileNetV2ForImageClassification": ("MobileNetV2", {"depth_multiplier": 0.5}),
    "MobileNetV2ForSemanticSegmentation": ("MobileNetV2", {"depth_multiplier": 0.5}),
    "EfficientNetForImageClassification": (
        "EfficientNet",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224},
    ),
    "PPLCNetForImageClassification": ("PPLCNet", {}),
    "PPLCNetV3Backbone": ("PPLCNetV3", {}),
    "PPLCNetV4Backbone": ("PPLCNetV4", {}),
    "HGNetV2ForImageClassification": ("HGNetV2", HGNET),
    "HGNetV2ForImageClassification/affine": ("HGNetV2", HGNET | {"use_learnable_affine_block": True}),
    "TextNetForImageClassification": ("TextNet", TEXTNET),
    "SwiftFormerForImageClassification": (
        "SwiftFormer",
        {"embed_dims": [32, 48, 96, 128], "depths": [2, 2, 2, 2]},
    ),
    "LevitForImageClassification": (
        "Levit",
        {"hidden_sizes": [64, 96, 128], "num_attention_heads": [2, 3, 4], "depths": [2, 2, 2]},
    ),
    "CvtForImageClassification": (
        "Cvt",
        {"embed_dim": [32, 64, 128], "depth": [1, 2, 3], "num_heads": [1, 2, 4]},
    ),
    "MobileViTForImageClassification": ("MobileViT", MOBILE_VIT),
    "MobileViTForSemanticSegmentation": ("MobileViT", MOBILE_VIT),
    "MobileViTV2ForImageClassification": ("MobileViTV2", {"width_multiplier": 0.5}),
    "PvtV2ForImageClassification": ("PvtV2", PYRAMID),
    "SegformerForSemanticSegmentation": ("Segformer", PYRAMID | {"decoder_hidden_size": 64}),
    "GLPNForDepthEstimation": ("GLPN", PYRAMID),
    "DPTForDepthEstimation/hybrid": ("DPT", HYBRID),
    "UperNetForSemanticSegmentation/convnext": (
        "UperNet",
        UPERNET | {"backbone_config": ("ConvNext", PLAIN | STAGES)},
    ),
    "UperNetForSemanticSegmentation/resnet": (
        "UperNet",
        UPERNET | {"backbone_config": ("ResNet", RESIDUAL | STAGES)},
    ),
    "DetrForObjectDetection/resnet": (
        "Detr",
        DETR | {"backbone_config": ("ResNet", RESIDUAL | {"out_features": ["stage4"]})},
    ),
    "PPOCRV5MobileDetForObjectDetection": ("PPOCRV5MobileDet", {}),
    "SuperPointForKeypointDetection": ("SuperPoint", {}),
    "SLANetForTableRecognition": ("SLANet", {}),
}
"""Network of transformers → its configuration: a class and options; a nested configuration is such a pair too."""


def names() -> list[str]:
    """Return the names of all networks, as `smp:ARCHITECTURE/ENCODER`, `transformers:CLASS` and `pytorchcv:NAME`."""
    return [
        *(
            f"smp:{one}/{encoder}"
            for one, third in ENCODERS.items()
            for encoder in ("resnet18", "efficientnet-b0", third)
        ),
        *(f"transformers:{name}" for name in TRANSFORMERS),
        *(f"pytorchcv:{name}" for name in PYTORCHCV),
    ]


def missing_packages() -> dict[str, str]:
    """Return the packages that are not installed, by the prefix of their networks."""
    return {prefix: package for prefix, package in PACKAGES.items() if find_spec(package) is None}


def _smp(name: str) -> nn.Module:
    import segmentation_models_pytorch

    architecture, encoder = name.split("/")
    make = getattr(segmentation_models_pytorch, architecture)
    model: nn.Module = make(encoder_name=encoder, encoder_weights=None, classes=10)
    return model


def _transformers(name: str) -> nn.Module:
    import transformers

    def configuration(kind: str, options: dict[str, Any]) -> Any:
        made = {key: configuration(*value) if isinstance(value, tuple) else value for key, value in options.items()}
        return getattr(transformers, f"{kind}Config")(**made)

    kind, options = TRANSFORMERS[name]
    model: nn.Module = getattr(transformers, name.split("/")[0])(configuration(kind, options | {"num_labels": 10}))
    return model


def _pytorchcv(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    model: nn.Module = get_model(name, pretrained=False, **OPTIONS.get(name, {}))
    return model


BUILDERS = {"smp": _smp, "transformers": _transformers, "pytorchcv": _pytorchcv}
