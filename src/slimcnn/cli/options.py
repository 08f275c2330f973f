"""Options that commands share, and those of `compress`, with what `--help` says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WHICH, HOW_SMALL, BACK, RUN = "Which network and images", "How small", "Recovering accuracy", "The run"

Model = Annotated[
    str,
    typer.Option(
        help="A name (*slimcnn list networks*), timm:NAME, torchvision:NAME or package.module:function. "
        "May be left out when --weights is a checkpoint of slimcnn.",
        rich_help_panel=WHICH,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Trained weights: .safetensors, a .pt that weights-only reading accepts, or a checkpoint.",
        rich_help_panel=WHICH,
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="A name (*slimcnn list datasets*), NAME:PATH for files that you already have, "
        "or a folder of images per class.",
        rich_help_panel=WHICH,
    ),
]
Arguments = Annotated[
    list[str],
    typer.Option("--model-arg", help="An argument of the network, name=value; may be repeated.", rich_help_panel=WHICH),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Scale all images to this many pixels. Default: as they are; for a folder, what the network was made for.",
        rich_help_panel=WHICH,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Use at most so many images of each part, for a quick try.", rich_help_panel=WHICH),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        help="Which channels matter (*slimcnn list criteria*), with options such as fpdf:bins=4. Default l2.",
        rich_help_panel=HOW_SMALL,
    ),
]
Macs = Annotated[
    float | None, typer.Option(help="At most this share of the MACs stays. Default 0.5.", rich_help_panel=HOW_SMALL)
]
Params = Annotated[
    float | None, typer.Option(help="At most this share of the parameters stays.", rich_help_panel=HOW_SMALL)
]
Size = Annotated[
    str | None,
    typer.Option(help="At most so large a file of weights, such as 500kB or 1MiB.", rich_help_panel=HOW_SMALL),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="At most so much running memory, such as 8MB: bytes of live activations at their peak, one image,"
        " float32, without the weights.",
        rich_help_panel=HOW_SMALL,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        help="One call takes at most this: 0.4ms, or a share of the original's time, 0.5. Measured on this machine; "
        "whole blocks may go.",
        rich_help_panel=HOW_SMALL,
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="What runs the network, for --latency: openvino, onnxruntime, executorch, torch. Default: the first that "
        "is installed.",
        rich_help_panel=HOW_SMALL,
    ),
]
LatencyBatch = Annotated[
    int | None, typer.Option("--batch", help="Images a call, for --latency. Default 1.", rich_help_panel=HOW_SMALL)
]
Threads = Annotated[int | None, typer.Option(help="CPU threads, for --latency. Default 1.", rich_help_panel=HOW_SMALL)]
PruningRatio = Annotated[float | None, typer.Option(help="This share of the channels goes.", rich_help_panel=HOW_SMALL)]
Curve = Annotated[
    str,
    typer.Option(
        help="Several sizes in one run, such as 0.8,0.6,0.4: shares of the MACs that stay. One trace and one scoring.",
        rich_help_panel=HOW_SMALL,
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(
        help="sensitivity: first what costs the output least, measured on images; local: the same share of "
        "every layer; global: rank all channels together. Default: sensitivity; with --pruning-ratio "
        "local.",
        rich_help_panel=HOW_SMALL,
    ),
]
Residual = Annotated[
    str | None,
    typer.Option(
        help="Channels between residual blocks: auto (kept where the target can be met without them), inner "
        "(kept), cut, or scatter (blocks add into them at the places that they keep). Default auto.",
        rich_help_panel=HOW_SMALL,
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(help="Keep multiples of this many channels; 8 or 16 suit most hardware.", rich_help_panel=HOW_SMALL),
]
MinChannels = Annotated[
    int | None,
    typer.Option(
        help="No layer keeps fewer channels than this; 0: residual branches may vanish. Default 1.",
        rich_help_panel=HOW_SMALL,
    ),
]
Inexact = Annotated[
    bool,
    typer.Option(
        help="Allow pruning across LayerNorm and GroupNorm (ConvNeXt); such a cut cannot be proven equal.",
        rich_help_panel=HOW_SMALL,
    ),
]
Protect = Annotated[
    list[str],
    typer.Option(help="Layers that keep all channels, as layer1.*; may be repeated.", rich_help_panel=HOW_SMALL),
]
Plan = Annotated[
    Path | None, typer.Option(help="Follow this plan (see --dry-run), as you edited it.", rich_help_panel=HOW_SMALL)
]
Recover = Annotated[
    str | None,
    typer.Option(
        help="Steps that recover accuracy, in order, joined by +: least_squares (refit layers, labels are not "
        "used), fold_constants, recalibrate (batch norm), distill (from the original), train (on labels);"
        " or none. Default: least_squares, and with --epochs least_squares+distill.",
        rich_help_panel=BACK,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="gfr: relate channels, train sparsely, search, cut without fine-tuning, fold away.",
        rich_help_panel=HOW_SMALL,
    ),
]
SparsityEpochs = Annotated[
    int | None,
    typer.Option(help="Epochs of sparsity training first: a penalty on batch-norm scales.", rich_help_panel=HOW_SMALL),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Search for the smallest network whose validation top-1 drops by at most this many points without"
        " training; *slimcnn search --join* helps.",
        rich_help_panel=HOW_SMALL,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="An Optuna storage URL for the search, such as sqlite:///search.db, shared by several processes. "
        "Default: a journal file in OUT.",
        rich_help_panel=RUN,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        help="Formats of model files (*slimcnn list formats*), separated by commas, or none. Default: onnx, if its "
        "packages are installed; with --curve none.",
        rich_help_panel=RUN,
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.", rich_help_panel=BACK)]
LearningRate = Annotated[
    float | None,
    typer.Option(help="The highest learning rate of the schedule.", rich_help_panel=BACK),
]
BatchSize = Annotated[int | None, typer.Option(help="Images per step.", rich_help_panel=BACK)]
Pretrain = Annotated[
    int | None,
    typer.Option(help="Train the network for so many epochs first (without --weights).", rich_help_panel=BACK),
]
SoftEpochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of soft filter pruning before the cut: the filters that will go are chosen again in every epoch.",
        rich_help_panel=BACK,
    ),
]
SetSettings = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Any other setting: of a step (prune.batches=16, or 2.batches=16 for the second step), of network"
        " or data, or of the recipe (latency_seconds=1); may be repeated.",
        rich_help_panel=RUN,
    ),
]
Steps = Annotated[
    str,
    typer.Option(
        help="A chain of steps (*slimcnn list steps*), such as 'prune:macs=0.5 + least_squares + distill:epochs=10'.",
        rich_help_panel=RUN,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        help="Train in layout nchw and precision 32 instead of what is fastest here: the same bits in every folder.",
        rich_help_panel=RUN,
    ),
]
Rewrite = Annotated[
    str,
    typer.Option(
        help="A rewrite of the network (*slimcnn list rewrites*), options as feature_reuse:variant=chain.",
        rich_help_panel=HOW_SMALL,
    ),
]
Init = Annotated[
    str,
    typer.Option(
        help="Where new layers begin: reuse (from the original's features, solved on training images) or random.",
        rich_help_panel=BACK,
    ),
]
Teacher = Annotated[str, typer.Option(help="The network that teaches; a name as for --student.", rich_help_panel=WHICH)]
TeacherWeights = Annotated[
    Path | None, typer.Option(help="Its trained weights, or a checkpoint.", rich_help_panel=WHICH)
]
TeacherArguments = Annotated[
    list[str],
    typer.Option(
        "--teacher-arg", help="An argument of the teacher, name=value; may be repeated.", rich_help_panel=WHICH
    ),
]
Student = Annotated[
    str,
    typer.Option(
        help="The network that learns: a name (*slimcnn list networks*), timm:NAME, torchvision:NAME or "
        "package.module:function; may be left out when --student-weights is a checkpoint.",
        rich_help_panel=WHICH,
    ),
]
StudentWeights = Annotated[
    Path | None,
    typer.Option(help="Where it begins: weights, or a checkpoint (a compressed network).", rich_help_panel=WHICH),
]
StudentArguments = Annotated[
    list[str],
    typer.Option(
        "--student-arg", help="An argument of the student, name=value; may be repeated.", rich_help_panel=WHICH
    ),
]
ExtraTeacher = Annotated[
    list[Path],
    typer.Option(help="Checkpoint of one more teacher; may be repeated. They answer together.", rich_help_panel=WHICH),
]
TeacherCache = Annotated[
    int | None,
    typer.Option(
        help="Fixed augmented views per image; the teacher's logits on each are computed once and kept in OUT.",
        rich_help_panel=BACK,
    ),
]
LossTerms = Annotated[
    str,
    typer.Option(
        "--loss",
        help="Terms (*slimcnn list losses*), as `kd+scale_factor` or `0.1*cross_entropy+0.9*kd:temperature=4`.",
        rich_help_panel=BACK,
    ),
]
Out = Annotated[Path, typer.Option(help="The run's folder. Run the same command to resume.", rich_help_panel=RUN)]
Seed = Annotated[int, typer.Option(help="Decides splits, order, augmentation, random scores.", rich_help_panel=RUN)]
Devices = Annotated[int, typer.Option(help="Processes on this machine.", rich_help_panel=RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool,
    typer.Option(
        help="Show the plan and write it to OUT/plan.json, to edit and pass back with --plan.", rich_help_panel=RUN
    ),
]
Input = Annotated[
    str, typer.Option("--input", help="Shape of one image, as 3x224x224. Default: what the network was made for.")
]
