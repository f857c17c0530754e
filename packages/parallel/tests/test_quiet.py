import logging
import warnings

import pytest

from eyas.parallel import quiet

SAID = (
    ("megatron.core.optimizer", "Transformer Engine and Apex are not installed. Falling back to Torch optimizers."),
    ("megatron.core.models.backends", "Apex is not installed. Falling back to Torch Norm"),
    (
        "megatron.core.optimizer.optimizer",
        "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed.",
    ),
    ("torch.distributed.c10d_logger", "`torch.distributed.reduce_scatter_tensor` is deprecated. Please use"),
)


@pytest.mark.parametrize(("module", "text"), SAID)
def test_a_warning_is_silenced_from_its_own_source_alone(module: str, text: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet.importing():
            warnings.warn_explicit(text, UserWarning, "file.py", 1, module=module)
            warnings.warn_explicit(text, UserWarning, "file.py", 1, module="users_own")
            warnings.warn_explicit("something else", UserWarning, "file.py", 1, module=module)
    assert [str(warning.message) for warning in heard] == [text, "something else"]


def test_the_launchers_log_is_silent_only_while_launching(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torch.distributed.elastic.agent.server.api")
    with quiet.launching():
        logger.error("inside")
    logger.error("outside")
    assert caplog.messages == ["outside"]
