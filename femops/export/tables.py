"""Constants of a law as C source."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMBERS_PER_LINE = 5


class Tables:
    """A C header of constants; floating-point numbers are hexadecimal, without loss of precision."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def sizes(self, **values: int) -> None:
        """Define integer macros, whose names are in capitals."""
        self._parts += [f"#define {name.upper()} {value}\n" for name, value in values.items()]

    def number(self, name: str, value: float) -> None:
        """Define a macro of a finite floating-point number, whose name is in capitals."""
        self._parts.append(f"#define {name.upper()} {float(value).hex()}\n")

    def array(self, name: str, values: Any) -> None:
        """Define an array in C order; an empty one, which C does not have, gets a zero."""
        flat = np.ravel(np.asarray(values, dtype=np.float64))
        texts = [number(one) for one in (flat if len(flat) else [0.0])]
        lines = [", ".join(texts[i : i + _NUMBERS_PER_LINE]) for i in range(0, len(texts), _NUMBERS_PER_LINE)]
        self._parts.append(f"static const double {name}[{len(texts)}] = {{\n{',\n'.join(lines)}}};\n")

    def struct(self, kind: str, name: str, members: Mapping[str, Any]) -> None:
        """Define a struct whose members are integers and pointers to arrays, which are defined too."""
        for member, value in members.items():
            if not isinstance(value, int):
                self.array(f"{name}_{member}", value)
        given = [str(one) if isinstance(one, int) else f"{name}_{member}" for member, one in members.items()]
        self._parts.append(f"static const struct {kind} {name} = {{{', '.join(given)}}};\n")

    def text(self, text: str) -> None:
        """Add C source."""
        self._parts.append(text)

    def __str__(self) -> str:
        return "".join(self._parts)


def number(value: float) -> str:
    """Return a floating-point number in C, infinite ones included."""
    if np.isinf(value):
        return "HUGE_VAL" if value > 0.0 else "-HUGE_VAL"
    return float(value).hex() if value else "0.0"


def string(text: str) -> str:
    """Return text as a C string in UTF-8."""
    plain = "".join(chr(one) if 32 <= one < 127 and chr(one) not in '"\\?' else f"\\{one:03o}" for one in text.encode())
    return f'"{plain}"'
