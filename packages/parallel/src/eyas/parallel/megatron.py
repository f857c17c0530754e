"""What Eyas borrows from Megatron-Core, for every module of eyas.parallel but three that name it themselves: `host` and
`mends`, which prepare it, and `indexed`, whose token files need no preparation.

Importing this module prepares Megatron-Core for the machine (see `host` and `mends`). Whatever a later Megatron line
renames is answered here.
"""

from eyas.parallel import host, mends, quiet

with quiet.importing():
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace, nested_values
    from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelLoadStrategyWrapper,
        FullyParallelSaveStrategyWrapper,
    )
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.enums import ModelType
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.optimizer.optimizer_config import ParamKey, ParamPredicate
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.tensor_parallel import mappings
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker, model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.moe import moe_utils
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
    from megatron.core.transformer.moe.token_dispatcher import MoEAllGatherTokenDispatcher, MoEAlltoAllTokenDispatcher

    host.install()
    mends.install()

__all__ = [
    "CheckpointingException",
    "DistributedDataParallel",
    "DistributedDataParallelConfig",
    "FullyParallelLoadStrategyWrapper",
    "FullyParallelSaveStrategyWrapper",
    "LocalNonpersistentObject",
    "MoEAllGatherTokenDispatcher",
    "MoEAlltoAllTokenDispatcher",
    "MoEAuxLossAutoScaler",
    "ModelType",
    "OptimizerConfig",
    "ParamKey",
    "ParamPredicate",
    "ProcessGroupCollection",
    "ShardedTensor",
    "TransformerConfig",
    "dict_list_map_outplace",
    "dist_checkpointing",
    "finalize_model_grads",
    "get_cuda_rng_tracker",
    "get_forward_backward_func",
    "get_megatron_optimizer",
    "mappings",
    "model_parallel_cuda_manual_seed",
    "moe_utils",
    "nested_values",
    "parallel_state",
]
