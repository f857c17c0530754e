"""What stands for no label."""

IGNORED = -100
"""Label of a token that has no loss: what torch's cross-entropy and Hugging Face's data sets use."""
