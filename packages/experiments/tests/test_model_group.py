"""Models read without Hydra are what Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from eyas.core.errors import ConfigError
from eyas.core.schema import defaults
from eyas.experiments.compose import register_schemas
from eyas.experiments.conf_tree import conf_folder
from eyas.experiments.data_config import DataConfig
from eyas.experiments.model_group import model_group, placed_choice

NAMES = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_what_hydra_composes(name):
    register_schemas()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        group = compose(f"model/{name}")
    whole = OmegaConf.create({**group, "data": defaults(DataConfig)})
    assert model_group(name) == OmegaConf.to_container(whole.model, resolve=True)


def test_an_entry_that_it_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="must be absolute and placed"):
        placed_choice({"layer": "attention"}, "model")
