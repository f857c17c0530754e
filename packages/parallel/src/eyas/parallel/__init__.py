"""Where a model runs: layouts, process groups, Megatron-Core on GPU and CPU, the Lightning strategy, checkpoints.

The only package that imports Megatron, and only in workers. May import eyas.core; never the layers.
"""
