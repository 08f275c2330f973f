import pytest
import torch

from slimcnn.errors import ModelError
from slimcnn.layers.channel_pad import ChannelPad


@pytest.mark.parametrize("space", [(), (5,), (4, 3), (2, 3, 4)])
def test_zeros_stand_around_the_unchanged_channels(space: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *space)
    y = ChannelPad(1, 4)(x)
    assert y.shape == (2, 8, *space)
    assert torch.equal(y[:, 1:4], x)
    assert not y[:, :1].any()
    assert not y[:, 4:].any()


def test_attributes_changed_later_count() -> None:
    pad = ChannelPad(8, 8)
    pad.front, pad.back = 0, 1
    assert pad(torch.ones(1, 2, 2, 2)).shape == (1, 3, 2, 2)
    assert repr(pad) == "ChannelPad(0, 1)"


def test_it_holds_no_tensors() -> None:
    assert ChannelPad(1, 1).state_dict() == {}


@pytest.mark.parametrize("padding", [(-1, 0), (0, -2)])
def test_a_negative_padding_is_refused(padding: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="0 or more"):
        ChannelPad(*padding)
