"""Training settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slimcnn.datasets import Augmentation

LEARNING_RATES = {"adamw": 0.001, "lamb": 0.005, "rmsprop": 0.01}
"""Default peak learning rates; that of SGD depends on the training."""

Share = Annotated[float, Field(gt=0, lt=1)]


class Training(BaseModel):
    """The settings of one training run; the defaults train a CIFAR network from scratch.

    Use `learning_rate` 0.01 to 0.05 to fine-tune a pruned network. `probe` replaces `"auto"` with a measured choice,
    `decided` also stores it in a file, and `deterministic` replaces `"auto"` with a fixed choice.
    A value out of range raises pydantic's `ValidationError`.

    >>> Training(epochs=5, learning_rate=0.02).schedule
    'cosine'
    >>> Training(optimizer="adamw").learning_rate
    0.001
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    epochs: int = Field(default=10, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=128, ge=1)
    """Images per step, over all processes together."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are added up for one step of the optimizer: as one batch so many times as large, in the
    memory of one. Batch norms still use the statistics of each batch."""
    optimizer: Literal["sgd", "adamw", "lamb", "rmsprop"] = "sgd"
    """SGD has Nesterov momentum; lamb is for large batches, and needs timm."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Peak learning rate; by default 0.001 for adamw, 0.005 for lamb and 0.01 for rmsprop."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD and RMSprop; 0 is none."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Applies to filters and matrices, not to batch norm and biases (tensors with one axis; He et al. 2019)."""
    schedule: Literal["cosine", "step", "one_cycle"] = "cosine"
    """See `learning_rate`."""
    milestones: tuple[Share, ...] = (0.5, 0.75)
    """Step schedule: the learning rate is multiplied by `factor` after these fractions of the run."""
    factor: float = Field(default=0.1, gt=0, le=1)
    """Step schedule: the multiplier at each milestone."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Linear warm-up to the peak, for cosine and step; one_cycle has a built-in warm-up."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the default objective, cross entropy."""
    augmentation: str | None = None
    """Augmentation of the training images, joined by +: default + randaugment:magnitude=9 + mixup (`slimcnn list
    augmentations`). default stands for that of the dataset, none for none."""
    keep: Literal["best", "last"] = "best"
    """The weights at the end. best: the start or the epoch with the best validation metric, of equal ones the last;
    last: the last epoch. Objectives of sparsity training and soft pruning always keep the last."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay per step of an exponential moving average of weights and buffers; the average is evaluated and returned."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Maximum gradient norm over all parameters; larger gradients are scaled down."""
    frozen_epochs: int = Field(default=0, ge=0)
    """Epochs at the start that train only the head. The other layers keep their weights and run in eval mode, so batch
    norm uses its stored statistics and does not change them, and dropout is off. The schedule covers all epochs."""
    frozen_batch_norm: bool = False
    """Batch norms run in eval mode: they normalize by their stored statistics, which stay. For images that are few, or
    unlike those of the first training."""
    head: str = ""
    """Name of the module that frozen epochs train, such as fc; default: the last layer that runs."""
    depth_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of the first layer, as a share of that of the last: layer k of n has the share
    depth_decay^((n - k) / (n - 1)). 1: the same rate for all layers."""
    layout: Literal["auto", "nchw", "channels_last"] = "auto"
    """The memory format of images and filters."""
    precision: Literal["auto", "32", "bf16-mixed", "16-mixed"] = "auto"
    """Mixed: autocast for the forward pass, weights in float32. 16-mixed needs CUDA and is never chosen by "auto"."""
    compile: bool = False
    """Use `torch.compile` for the training steps: compiling takes about a minute, then steps are faster."""
    views: int | None = Field(default=None, ge=1)
    """Number of fixed augmented views per image, one per epoch in turn; by default every epoch draws new ones."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Sets the order of images, their augmentation, and dropout."""
    save_every_seconds: float = Field(default=60.0, ge=0)
    """Seconds between two saves of the state within an epoch, if there is a folder."""

    @property
    def resolved(self) -> bool:
        """Whether layout and precision are both set, so that `probe` has nothing to measure."""
        return "auto" not in (self.layout, self.precision)

    @field_validator("precision", mode="before")
    @classmethod
    def _number_of_bits(cls, precision: Any) -> Any:
        return str(precision) if isinstance(precision, int) else precision

    @field_validator("augmentation")
    @classmethod
    def _known_augmentation(cls, spec: str | None) -> str | None:
        if spec is not None:
            Augmentation.named(spec)
        return spec

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_of_the_optimizer(cls, data: Any) -> Any:
        rate = LEARNING_RATES.get(str(data.get("optimizer"))) if isinstance(data, dict) else None
        return data if rate is None else {"learning_rate": rate, **data}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} must be in increasing order")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below epochs {self.epochs}")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ValueError("one_cycle has a built-in warm-up: leave warmup_epochs at 0")
        if self.frozen_epochs and self.frozen_epochs >= self.epochs:
            raise ValueError(
                f"frozen_epochs {self.frozen_epochs} must be below epochs {self.epochs}: the others train all layers"
            )
        return self
