"""The engines that run a variation in a container: Docker and Dagger, behind one interface."""

from parallel_agents.config import Settings
from parallel_agents.engines.base import Engine
from parallel_agents.gateway import Gateway


def make_engine(settings: Settings, gateway: Gateway) -> Engine:
    """The engine that ENGINE names; only its library is imported."""
    if settings.engine == "dagger":
        from parallel_agents.engines.dagger import DaggerEngine

        return DaggerEngine(settings, gateway)
    from parallel_agents.engines.docker import DockerEngine

    return DockerEngine(settings, gateway)
