"""Parquet files and tables of `datasets`: as tables in memory or mapped from disk, and their rows as plain values."""

from __future__ import annotations

import dataclasses
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.data import readers
from assent.data.readers import Hasher, check_regular, check_unpacked, is_gzipped, unpacks_too_far
from assent.errors import DataError

if TYPE_CHECKING:
    import datasets


def open_parquet(paths: Sequence[Path], hasher: Hasher) -> datasets.Dataset:
    """Parquet files as one Arrow table, memory-mapped from the cache of `datasets`; gzipped ones are held in memory."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    tables = []
    for path in paths:
        try:
            check_regular(path)
            data = _unpacked(path) if is_gzipped(path) else None
            with pyarrow.parquet.ParquetFile(io.BytesIO(data) if data is not None else path) as file:
                _check_groups(path, file.metadata)
                if data is not None:
                    tables.append(datasets.Dataset(datasets.table.InMemoryTable(file.read())))
        except DataError:
            raise
        except (pyarrow.ArrowException, EOFError, zlib.error, OSError, ValueError) as error:
            raise DataError(
                f"{path} is not a readable Parquet file: {error}", fix="download or write it again"
            ) from None
        with path.open("rb") as raw:
            while block := raw.read(1 << 20):
                hasher.update(block)
    mapped = [str(path) for path in paths if not is_gzipped(path)]
    if mapped:
        try:
            loaded = datasets.Dataset.from_parquet(mapped)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise DataError(f"{', '.join(mapped)} cannot be read as one table: {why}") from None
        assert isinstance(loaded, datasets.Dataset)
        tables.append(loaded)
    return tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)


def _check_groups(path: Path, metadata: Any) -> None:
    """Raises DataError for a file without rows, and for one that unpacks to far more than its size or rows can have."""
    if not metadata.num_rows:
        raise DataError(f"{path} has no rows", fix="check how the file was written")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for group in groups:
        if group.total_byte_size > readers.MAX_ROW_BYTES * max(1, group.num_rows):
            raise DataError(
                f"{path}: its rows are longer than {readers.MAX_ROW_BYTES // 10**6} MB", fix="check how it was written"
            )
    size = sum(group.total_byte_size for group in groups)
    if size > readers.most_unpacked(path):
        raise unpacks_too_far(path, size)


def undecoded(table: datasets.Dataset) -> datasets.Dataset:
    """The table without its decoders of pictures, films and sound: such rows are refused, not opened."""
    import datasets

    plain = {name: _without_decoder(feature) for name, feature in table.features.items()}
    return table if plain == dict(table.features) else table.cast(datasets.Features(plain))


def _without_decoder(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _without_decoder(item) for name, item in feature.items()}
    if isinstance(feature, list):
        return [_without_decoder(item) for item in feature]
    if hasattr(feature, "feature"):
        return dataclasses.replace(feature, feature=_without_decoder(feature.feature))
    return dataclasses.replace(feature, decode=False) if getattr(feature, "decode", False) is True else feature


def _unpacked(path: Path) -> bytes:
    parts, size = [], 0
    with gzip.open(path) as file:
        while part := file.read(1 << 20):
            parts.append(part)
            size += len(part)
            check_unpacked(path, size)
    return b"".join(parts)


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """An Arrow row without the nulls that Arrow adds for missing keys of nested objects."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
