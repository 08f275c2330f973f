"""How pictures of any size become images of one size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from slimcnn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ImageSize: TypeAlias = int | tuple[int, int]
"""The side of square images, or height and width, in pixels."""

Interpolation: TypeAlias = Literal["bicubic", "bilinear"]


def sides(size: ImageSize) -> tuple[int, int]:
    """Return height and width.

    >>> sides(224), sides((96, 128))
    ((224, 224), (96, 128))
    """
    return (size, size) if isinstance(size, int) else size


def by(size: tuple[int, int]) -> str:
    """Write height and width as an image size of the command line.

    >>> by((96, 128)), by((8, 8))
    ('96x128', '8')
    """
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class Scaling:
    """How a picture is scaled, before its center is cropped to the image size.

    >>> Scaling(resize=256, interpolation="bilinear")
    Scaling(resize=256, interpolation='bilinear')
    """

    resize: int | None = None
    """The length of the shorter side after scaling; None: as small as the crop allows, so that as much as possible of
    the picture is seen."""
    interpolation: Interpolation = "bicubic"

    def stated(self) -> dict[str, Any]:
        """Return the values that files state; none for the default, which datasets of one size have too.

        >>> Scaling(resize=256).stated(), Scaling().stated()
        ({'resize': 256, 'interpolation': 'bicubic'}, {})
        """
        return {} if self == AS_LARGE else asdict(self)

    def check(self, size: tuple[int, int] | None) -> None:
        """Raise `DataError` unless the scaled picture is at least as large as the images (height, width).

        >>> Scaling(resize=200).check((224, 224))
        Traceback (most recent call last):
        slimcnn.errors.DataError: resize is 200, smaller than the image_size 224 that is cropped from it: ...
        """
        if self.resize is None:
            return
        if size is None:
            raise DataError(f"resize is {self.resize}, but no image_size, which is cropped from the center, is given")
        if self.resize < max(size):
            raise DataError(
                f"resize is {self.resize}, smaller than the image_size {by(size)} that is cropped from it: use at "
                f"least {max(size)}"
            )

    def apply(self, picture: Picture, size: tuple[int, int]) -> Picture:
        """Scale a picture and crop its center to (height, width); with `resize`, as torchvision's weights expect."""
        from PIL import Image, ImageOps

        height, width = size
        if self.resize is None:
            return ImageOps.fit(picture, (width, height), Image.Resampling[self.interpolation.upper()])
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        scaled = functional.resize(picture, [self.resize], interpolation=InterpolationMode(self.interpolation))
        cropped: Picture = functional.center_crop(scaled, [height, width])
        return cropped


AS_LARGE = Scaling()
"""Scaled as little as the crop allows."""
