"""Texts of convolutions to columns, a million at a time: what few texts differ in is parsed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import InputError
from latency_model.shapes import ConvShape

__all__ = ["columns_of"]

# Sizes of up to 18 digits fit 64 bits.
_SIZE = r"(\d{1,18})"
_TEXT = (
    f"^(?P<batch>{_SIZE})x(?P<in_channels>{_SIZE})x(?P<height>{_SIZE})x(?P<width>{_SIZE}) ->"
    f"(?P<out_channels>{_SIZE}) (?P<kind>k[^g]*) g(?P<groups>{_SIZE}) (?P<rest>[^ ]+ [^ ]+ [^ ]+)$"
).replace("(\\d", "(?:\\d")
_SIZES = ("batch", "in_channels", "height", "width", "out_channels", "groups")


def columns_of(texts: Sequence[str]) -> ConvColumns:
    """Return the convolutions that canonical ``texts`` name, in their order.

    Raises ``InputError`` for the first text that is none. Whether the sizes make a convolution is not checked
    here: ``LookupTable.of`` does so.
    """
    column = pa.array(texts, pa.string())
    parts = pc.extract_regex(column, _TEXT)
    if parts.null_count:
        place = int(np.flatnonzero(parts.is_null().to_numpy(zero_copy_only=False))[0])
        ConvShape.parse(texts[place])  # says what is wrong
        raise InputError(f"not the canonical text of a convolution: {texts[place]!r}")
    fields = dict(zip((field.name for field in parts.type), parts.flatten(), strict=True))
    endings = pc.binary_join_element_wise(fields["kind"], fields["rest"], " g1 ").dictionary_encode()
    kinds = [
        Kind.of(ConvShape.parse(f"1x1x999999999x999999999 ->1 {text}"))
        for text in endings.dictionary.to_pylist()
    ]
    sizes = {name: fields[name].cast(pa.int64()).to_numpy() for name in _SIZES}
    places = endings.indices.to_numpy().astype(np.int64)
    return ConvColumns(**sizes, kind=places, kinds=tuple(kinds))
