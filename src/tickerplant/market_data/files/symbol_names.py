"""The symbols of a file: the canonical name and the code of each text, block by block. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core.errors import BadInput
from tickerplant.core.symbols import check_symbol

Int32Array = npt.NDArray[np.int32]

_INVALID: Final = "?"
"""Name of a text that is not a symbol. Its rows become dead letters."""


@dataclass(frozen=True, slots=True)
class NamedTexts:
    """The names of the texts of one dictionary (`texts`).

    `names`: the distinct canonical names. `name_of`: the index of each text's name. `codes`: the code of each text's
    symbol in the file, -1 for a text that is not a symbol. `invalid`: the reason for each such text, by its index.
    """

    texts: pa.Array
    names: pa.Array
    name_of: Int32Array
    codes: Int32Array
    invalid: dict[int, str]


class SymbolNames:
    """Names and codes of the symbols of one file. Codes count the symbols in the order of their first rows."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self._checked: dict[str | None, str] = {}
        self._last: NamedTexts | None = None

    def add(self, symbol: str) -> None:
        """Add a canonical symbol. A symbol that is known keeps its code."""
        self.codes.setdefault(symbol, len(self.codes))

    def of(self, texts: pa.Array) -> NamedTexts:
        """Return the names of a dictionary's texts. The blocks of a file often repeat one dictionary."""
        if self._last is None or not self._last.texts.equals(texts):
            self._last = self._named(texts)
        return self._last

    def _named(self, texts: pa.Array) -> NamedTexts:
        known: list[str] = []
        invalid: dict[int, str] = {}
        for at, text in enumerate(texts.cast(pa.utf8()).to_pylist()):
            try:
                if text not in self._checked:
                    self._checked[text] = check_symbol(text or "")
                known.append(self._checked[text])
            except BadInput as error:
                invalid[at] = str(error)
                known.append(_INVALID)
        unique = list(dict.fromkeys(known))
        for symbol in unique:
            if symbol != _INVALID:
                self.add(symbol)
        index_of = {symbol: at for at, symbol in enumerate(unique)}
        name_of = np.array([index_of[symbol] for symbol in known] or [0], np.int32)
        codes = np.array([self.codes.get(symbol, -1) for symbol in known] or [0], np.int32)
        return NamedTexts(texts, pa.array(unique or [_INVALID], pa.utf8()), name_of, codes, invalid)
