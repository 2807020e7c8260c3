"""What is computed otherwise where the hardware is better served that way; nothing here changes a result."""

from attention_blocks.kernels.linear import Linear, linear, packed

__all__ = ["Linear", "linear", "packed"]
