"""Flower's reading of an app's run configuration.

It brings pydantic along, so what a worker imports does not import it.
"""

from flwr.common.config import flatten_dict, fuse_dicts, parse_config_args

__all__ = ["flatten_dict", "fuse_dicts", "parse_config_args"]
