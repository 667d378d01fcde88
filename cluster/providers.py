"""The provider of a cluster config."""

from __future__ import annotations

from cluster.cluster_config import ClusterConfig
from cluster.local_provider import LocalProvider
from cluster.provider import Provider
from cluster.recipe import RecipeProvider
from cluster.recipes import make_recipe
from cluster.ssh_provider import SshProvider
from cluster.state import StateFolder


def make_provider(config: ClusterConfig, folder: StateFolder) -> Provider:
    """The provider that a config names."""
    if config.provider == "local":
        return LocalProvider(config, folder)
    if config.provider == "ssh":
        return SshProvider(config, folder)
    return RecipeProvider(config, folder, make_recipe(config, folder.path))
