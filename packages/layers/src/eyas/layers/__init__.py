"""What a model is made of: mixers, blocks, embeddings, the loss, and the model built from a pattern.

May import eyas.core and eyas.parallel; never Megatron.
"""
