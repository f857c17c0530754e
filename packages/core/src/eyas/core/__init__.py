"""What a model is: weights and mixers by declaration, patterns, the model specification and what it costs.

Importing this package costs milliseconds: it needs neither torch nor Megatron. Only `eyas.core.mixer` imports torch.
"""
