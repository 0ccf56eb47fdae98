"""From raw pixels to the input of a network: batched tensor code, on whatever device the pixels are."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``(images - mean) / std`` in float32, of the shape of ``images``.

    ``mean`` and ``std`` are (c, 1, 1) in units of the raw pixels: see ``Data.pixel_statistics``.
    """
    return images.float().sub_(mean).div_(std)


def crop_flip_draws(count: int, generator: Generator, padding: int = 4) -> Tensor:
    """The chance in ``crop_flip`` for ``count`` images: rows top, left (0 to 2 ``padding``) and flip (0 or 1)."""
    offsets = torch.randint(2 * padding + 1, (2, count), generator=generator)
    return torch.cat((offsets, torch.randint(2, (1, count), generator=generator)))


def crop_flip(images: Tensor, draws: Tensor, padding: int = 4) -> Tensor:
    """Each image mirrored where its flip is 1, framed by ``padding`` zeros, and cut to its size at (top, left).

    ``images`` is uint8 (n, c, h, w), so the frame is black, as it would not be after normalisation; ``draws`` is
    (3, n) from ``crop_flip_draws``, on the same device.
    """
    count, channels, height, width = images.shape
    framed = pad(torch.stack((images, images.flip(-1))), (padding,) * 4)  # (2, n, c, H, W)
    wide, plane = framed.shape[-1], framed[0, 0, 0].numel()
    top, left, flip = draws
    corners = flip * (count * channels * plane) + top * wide + left  # (n,)
    planes = torch.arange(0, count * channels * plane, plane, device=images.device).view(count, channels, 1)
    rows = torch.arange(0, height * wide, wide, device=images.device)
    # every run of w pixels, wherever it begins, is a row of this overlapping view: one copy a row, not one a pixel
    runs = framed.flatten().unfold(0, width, 1)
    return runs.index_select(0, (planes + rows + corners[:, None, None]).flatten()).view_as(images)
