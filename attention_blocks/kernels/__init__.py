"""What is computed otherwise where the hardware is better served that way; nothing here changes a result."""

from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.linear import Linear, linear, packed

__all__ = ["Linear", "autocast_dtype", "linear", "packed"]
