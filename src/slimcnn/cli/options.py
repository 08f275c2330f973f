"""Options shared by several commands, and the options of `compress`, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NETWORK, PRUNING, RECOVERY, RUN = "Network and data", "Pruning", "Accuracy recovery", "Run"

Model = Annotated[
    str,
    typer.Option(
        help="A name (*slimcnn list networks*), timm:NAME, torchvision:NAME or package.module:function. "
        "Optional if --weights is a slimcnn checkpoint.",
        rich_help_panel=NETWORK,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Trained weights: .safetensors, a .pt that loads with weights_only=True, a checkpoint, or pretrained: "
        "those that timm or torchvision publishes.",
        rich_help_panel=NETWORK,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="Refuse a checkpoint that does not match its digest: it was damaged after it was written.",
        rich_help_panel=NETWORK,
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="What the network is for: *slimcnn list tasks*, or package.module:Task. Default: what the data says.",
        rich_help_panel=NETWORK,
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="A name (*slimcnn list datasets*), NAME:PATH for local files, a folder with one subfolder of images "
        "per class, or a source such as webdataset:PATTERN (*slimcnn list image_sources*).",
        rich_help_panel=NETWORK,
    ),
]
Arguments = Annotated[
    list[str],
    typer.Option("--model-arg", help="Model constructor argument, name=value; repeatable.", rich_help_panel=NETWORK),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Size of the images in pixels, such as 224, or height and width, such as 224x320. Default: the size that "
        "they have; for a folder, the network's input size.",
        rich_help_panel=NETWORK,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        help="Scale the shorter side of pictures to this many pixels, then crop the center to --image-size. Default: "
        "what published weights of timm and torchvision state, else as few pixels as the crop allows.",
        rich_help_panel=NETWORK,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Use at most this many images of each split, for a quick try.", rich_help_panel=NETWORK),
]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Decode the images of a folder while they are read, instead of once into memory. Default: if they do not "
        "fit into the free memory.",
        rich_help_panel=NETWORK,
    ),
]
SkipBroken = Annotated[
    bool,
    typer.Option(
        "--skip-broken", help="Leave out images that cannot be decoded, and count them.", rich_help_panel=NETWORK
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        help="Pruning criterion (*slimcnn list criteria*), with options such as fpdf:bins=4. Default: l2; with "
        "depthwise convolutions, reconstruction.",
        rich_help_panel=PRUNING,
    ),
]
Macs = Annotated[
    float | None, typer.Option(help="Keep at most this fraction of the MACs. Default: 0.5.", rich_help_panel=PRUNING)
]
Params = Annotated[
    float | None, typer.Option(help="Keep at most this fraction of the parameters.", rich_help_panel=PRUNING)
]
Size = Annotated[
    str | None,
    typer.Option(help="Maximum size of the weights file, such as 500kB or 1MiB.", rich_help_panel=PRUNING),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Maximum peak activation memory, such as 8MB: bytes of live activations for one image in float32, "
        "without the weights.",
        rich_help_panel=PRUNING,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        help="Maximum latency: absolute (0.4ms) or a fraction of the original's latency (0.5). Measured on this "
        "machine; whole blocks may be removed.",
        rich_help_panel=PRUNING,
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="Runtime for --latency: openvino, onnxruntime, executorch, torch. Default: the first that is installed.",
        rich_help_panel=PRUNING,
    ),
]
LatencyBatch = Annotated[
    int | None, typer.Option("--batch", help="Batch size for --latency. Default: 1.", rich_help_panel=PRUNING)
]
Threads = Annotated[int | None, typer.Option(help="CPU threads for --latency. Default: 1.", rich_help_panel=PRUNING)]
PruningRatio = Annotated[
    float | None, typer.Option(help="Fraction of the channels to remove.", rich_help_panel=PRUNING)
]
Curve = Annotated[
    str,
    typer.Option(
        help="Several sizes in one run: fractions of the MACs to keep, such as 0.8,0.6,0.4. Traced and scored once.",
        rich_help_panel=PRUNING,
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(
        help="sensitivity: remove the channels with the smallest measured output error first; local: the same "
        "fraction of every layer; global: rank all channels together. Default: sensitivity; with --pruning-ratio, "
        "local.",
        rich_help_panel=PRUNING,
    ),
]
Residual = Annotated[
    str | None,
    typer.Option(
        help="Channels between residual blocks: inner (keep), cut (prune), scatter (keep, but each block adds to a "
        "subset of them), or auto (keep if the target can be met otherwise). Default: auto.",
        rich_help_panel=PRUNING,
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        help="Round channel counts to multiples of this number; 8 or 16 suit most hardware. Default with depthwise "
        "convolutions: 4.",
        rich_help_panel=PRUNING,
    ),
]
MinChannels = Annotated[
    int | None,
    typer.Option(
        help="Minimum number of channels per layer; 0 allows removing residual branches. Default: 1.",
        rich_help_panel=PRUNING,
    ),
]
Inexact = Annotated[
    bool,
    typer.Option(
        help="Allow pruning across LayerNorm and GroupNorm (ConvNeXt). Not exact: equality cannot be proven.",
        rich_help_panel=PRUNING,
    ),
]
Protect = Annotated[
    list[str],
    typer.Option(
        help="Layers or modules that keep all channels, such as layer1 or *.conv1; repeatable.", rich_help_panel=PRUNING
    ),
]
Plan = Annotated[
    Path | None,
    typer.Option(help="Prune by this plan file (see --dry-run), which you may edit.", rich_help_panel=PRUNING),
]
Recover = Annotated[
    str | None,
    typer.Option(
        help="Steps that recover accuracy, joined by +: least_squares (refit layers; labels are not used), "
        "tune (imitate the original; labels are not used), fold_constants, recalibrate (batch norm), distill (from the "
        "original, on labels), train (on labels); or none. "
        "Default: least_squares+tune; with --epochs, least_squares+distill.",
        rich_help_panel=RECOVERY,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="gfr: learn channel relations, train with sparsity, search, prune without fine-tuning, fold relations.",
        rich_help_panel=PRUNING,
    ),
]
SparsityEpochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of sparsity training before pruning: a penalty on batch norm scales.", rich_help_panel=PRUNING
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Search for the smallest network whose validation metric worsens by at most this much (points of top-1, "
        "or units of the task's metric), without training. More processes can join with *slimcnn search --join*.",
        rich_help_panel=PRUNING,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Optuna storage URL for the search, such as sqlite:///search.db, to share it between processes. "
        "Default: a journal file in OUT.",
        rich_help_panel=RUN,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        help="Export formats (*slimcnn list formats*), separated by commas, or none. Default: onnx if its packages are "
        "installed; with --curve, none.",
        rich_help_panel=RUN,
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Minutes of tuning without labels after the cut: the network imitates the original. 0: none. Default: 5.",
        rich_help_panel=RECOVERY,
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Number of training epochs.", rich_help_panel=RECOVERY)]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Peak learning rate of the schedule.", rich_help_panel=RECOVERY),
]
BatchSize = Annotated[int | None, typer.Option(help="Training batch size.", rich_help_panel=RECOVERY)]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Weights that training keeps: best (the start or the epoch with the best validation metric) or last. "
        "Default: best.",
        rich_help_panel=RECOVERY,
    ),
]
Pretrain = Annotated[
    int | None,
    typer.Option(help="Train from scratch for this many epochs first (without --weights).", rich_help_panel=RECOVERY),
]
SoftEpochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of soft filter pruning before the cut; the filters to remove are selected again in every epoch.",
        rich_help_panel=RECOVERY,
    ),
]
SetSettings = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Any other setting: of a step (prune.batches=16, or 2.batches=16 for the second step), of network or "
        "data, or of the recipe (latency_seconds=1); repeatable.",
        rich_help_panel=RUN,
    ),
]
Steps = Annotated[
    str,
    typer.Option(
        help="Chain of steps (*slimcnn list steps*), such as 'prune:macs=0.5 + least_squares + distill:epochs=10'.",
        rich_help_panel=RUN,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        help="Train in layout nchw and precision 32 instead of the fastest on this machine. Results are bit-identical "
        "across run folders.",
        rich_help_panel=RUN,
    ),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard",
        help="Folder in which TensorBoard finds the metrics of every epoch: *tensorboard --logdir FOLDER*.",
        rich_help_panel=RUN,
    ),
]
Rewrite = Annotated[
    str,
    typer.Option(
        help="Rewrite of the network (*slimcnn list rewrites*), with options such as feature_reuse:variant=chain.",
        rich_help_panel=PRUNING,
    ),
]
Init = Annotated[
    str,
    typer.Option(
        help="Weights of new layers: reuse (fitted to the original's features on training images) or random.",
        rich_help_panel=RECOVERY,
    ),
]
Teacher = Annotated[str, typer.Option(help="Teacher network; a name as for --student.", rich_help_panel=NETWORK)]
TeacherWeights = Annotated[
    Path | None, typer.Option(help="Trained weights of the teacher, or a checkpoint.", rich_help_panel=NETWORK)
]
TeacherArguments = Annotated[
    list[str],
    typer.Option(
        "--teacher-arg", help="Teacher constructor argument, name=value; repeatable.", rich_help_panel=NETWORK
    ),
]
Student = Annotated[
    str,
    typer.Option(
        help="Student network: a name (*slimcnn list networks*), timm:NAME, torchvision:NAME or "
        "package.module:function. Optional if --student-weights is a checkpoint.",
        rich_help_panel=NETWORK,
    ),
]
StudentWeights = Annotated[
    Path | None,
    typer.Option(
        help="Initial weights of the student, or a checkpoint (such as a compressed network).", rich_help_panel=NETWORK
    ),
]
StudentArguments = Annotated[
    list[str],
    typer.Option(
        "--student-arg", help="Student constructor argument, name=value; repeatable.", rich_help_panel=NETWORK
    ),
]
ExtraTeacher = Annotated[
    list[Path],
    typer.Option(
        help="Checkpoint of an additional teacher; repeatable. All teachers form an ensemble.", rich_help_panel=NETWORK
    ),
]
TeacherCache = Annotated[
    int | None,
    typer.Option(
        help="Number of fixed augmented views per image; teacher logits are computed once and cached in OUT.",
        rich_help_panel=RECOVERY,
    ),
]
LossTerms = Annotated[
    str,
    typer.Option(
        "--loss",
        help="Loss (*slimcnn list losses*), such as `kd+scale_factor` or `0.1*cross_entropy+0.9*kd:temperature=4`.",
        rich_help_panel=RECOVERY,
    ),
]
Out = Annotated[Path, typer.Option(help="Run folder. Run the same command to resume.", rich_help_panel=RUN)]
Seed = Annotated[
    int, typer.Option(help="Random seed of splits, image order, augmentation and random scores.", rich_help_panel=RUN)
]
Devices = Annotated[int, typer.Option(min=1, help="Number of training processes on this machine.", rich_help_panel=RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool,
    typer.Option(
        help="Show the plan and write it to OUT/plan.json; edit it and pass it back with --plan.", rich_help_panel=RUN
    ),
]
Input = Annotated[
    str,
    typer.Option(
        "--input",
        help="Shape of one input, such as 3x224x224; of several named inputs as JSON: "
        """{"image": "3x224x224", "mask": "1x224x224"}. Default: the network's input shape.""",
    ),
]
