"""Kernel names as files of rows give them: several in one text, helpers among them."""

from __future__ import annotations

import re

__all__ = ["main_kernel", "split_kernels"]

# What cuDNN and cuBLASLt run around a convolution's kernel: padding of channels, layout changes, workspace set-up and
# the sum of a split reduction.
_HELPERS = re.compile(
    r"AddPaddingKernel|tensorTransform|nchwToNhwc|nhwcToNchw|init_device_workspace|splitKreduce|[tT]ranspose|"
    r"scalePackedTensor|computeOffsets|generateWinogradTilesKernel"
)


def split_kernels(text: str) -> tuple[str, ...]:
    """Return the kernels of a text that separates them by semicolons, the main one first, each once.

    The order is otherwise that of the text. Which of several takes the most time is not known, so the main
    one is the first that is none of the helpers that libraries run around a convolution.
    """
    names = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(";")))))
    main = next((name for name in names if not _HELPERS.search(name)), names[0] if names else "")
    return (main, *(name for name in names if name != main)) if names else ()


def main_kernel(text: str) -> str:
    """Return the kernel that does the convolution's work, "" for an empty text; see ``split_kernels``.

    >>> main_kernel("nhwcAddPaddingKernel<__half>;sm80_xmma_fprop;nhwcAddPaddingKernel<__half>")
    'sm80_xmma_fprop'
    """
    return next(iter(split_kernels(text)), "")
