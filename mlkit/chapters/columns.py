"""Settings of a chapter, one list a column in its parameters cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Setting = TypeVar("Setting")


def settings_of(
    parameters: Any, columns: Mapping[str, str], setting: Callable[..., Setting], **fixed: Any
) -> list[Setting]:
    """Return one setting for each entry of the columns of a parameters cell.

    Args:
        parameters: the parameters cell.
        columns: name of a parameter: the field of a setting that one of its entries is.
        setting: makes one from its fields.
        fixed: fields that all settings have in common.

    Raises:
        ValueError: the columns differ in length.

    Example:
        >>> from types import SimpleNamespace
        >>> settings_of(SimpleNamespace(sizes=[32, 64]), {"sizes": "size"}, dict, data="shapes")
        [{'size': 32, 'data': 'shapes'}, {'size': 64, 'data': 'shapes'}]
    """
    lists = {name: getattr(parameters, name) for name in columns}
    lengths = {name: len(entries) for name, entries in lists.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"expected one entry a setting in each of {', '.join(columns)}; got {lengths}")
    rows = zip(*lists.values(), strict=True)
    return [setting(**dict(zip(columns.values(), row, strict=True)), **fixed) for row in rows]
