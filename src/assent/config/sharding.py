"""Options of commands whose work on a large file can be cut into shards (docs/large-files.md). Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from assent.config.options import NonNegative, Options, Positive

NAMES = frozenset({"num_shards", "shard", "engine", "workers", "status"})
"""They say who does the work, not what it is: the result is the same without them."""


class ShardingOptions(Options):
    """Who does the work on a large file: this process, several, or a Ray cluster."""

    num_shards: Positive | None = None
    """Cut the input into this many shards. Each is written to a file of its own; a shard that is done is not repeated.
    Default: none, or with --engine as many as suit the rows."""
    shard: NonNegative | None = None
    """Do this shard alone, counted from 0, for a scheduler that starts one process for each. Whoever ends the last one
    joins them. Needs --num-shards."""
    engine: Literal["local", "ray"] | None = None
    """Do the shards in a pool: local: processes on this machine; ray: actors on a Ray cluster (pip install
    'assent[ray]'), the one of RAY_ADDRESS or one on this machine."""
    workers: Positive | None = None
    """Workers of --engine, each with its own copy of the models. Default: 2."""
    status: bool = False
    """Say which shards are done, running and failed, and do nothing."""

    @property
    def is_sharded(self) -> bool:
        return self.num_shards is not None or self.engine is not None

    @model_validator(mode="after")
    def _sharding_is_whole(self) -> Self:
        if self.shard is not None:
            if self.num_shards is None:
                raise ValueError("shard has no effect without num_shards: give both, or leave it out")
            if self.shard >= self.num_shards:
                raise ValueError(f"shard counts from 0, so with num_shards {self.num_shards} it is below it")
            if self.engine is not None:
                raise ValueError("engine does all shards, shard does one: leave one of them out")
        if self.workers is not None and self.engine is None:
            raise ValueError("workers has no effect without engine: give --engine local or ray, or leave it out")
        if self.status and not self.is_sharded:
            raise ValueError("status is about shards: give it with the num_shards or engine that the run was given")
        return self
