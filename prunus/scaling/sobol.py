"""The plain Sobol sequence, whose points are the same in every cell of a study."""

from typing import Literal

Variant = Literal["bratley-fox", "joe-kuo"]

BITS = 30
# For each dimension from the second on: a primitive polynomial over GF(2), its bits from the highest power down, and
# the first of the odd numbers m_i < 2^i that its recurrence goes on from.
DIRECTIONS: dict[Variant, tuple[tuple[int, tuple[int, ...]], ...]] = {
    "bratley-fox": (  # Bratley & Fox 1988, Algorithm 659, after Sobol & Levitan 1976
        (0b11, (1,)),
        (0b111, (1, 1)),
        (0b1011, (1, 3, 7)),
        (0b1101, (1, 1, 5)),
        (0b10011, (1, 3, 1, 1)),
        (0b11001, (1, 1, 3, 7)),
        (0b100101, (1, 3, 3, 9, 9)),
        (0b111011, (1, 3, 7, 13, 3)),
        (0b101111, (1, 1, 5, 11, 27)),
    ),
    "joe-kuo": (  # Joe & Kuo 2008, new-joe-kuo-6
        (0b11, (1,)),
        (0b111, (1, 3)),
        (0b1011, (1, 3, 1)),
        (0b1101, (1, 1, 1)),
        (0b10011, (1, 1, 3, 3)),
        (0b11001, (1, 3, 5, 13)),
        (0b100101, (1, 1, 5, 5, 17)),
        (0b101001, (1, 1, 5, 5, 5)),
        (0b101111, (1, 1, 7, 11, 19)),
    ),
}


def sobol(number: int, dimensions: int, variant: Variant = "bratley-fox") -> tuple[float, ...]:
    """Point ``number`` of the sequence, unscrambled, in the order of Gray codes; 0 is the corner of all zeros.

    A study starts with 1. ``variant`` names the direction numbers: those of the paper's code, or those that torch and
    scipy have; they differ from the third dimension on. Raises ValueError for other than 1 to 10 dimensions.

    >>> sobol(2, 2)
    (0.75, 0.25)
    """
    most = len(DIRECTIONS[variant]) + 1
    if not 1 <= dimensions <= most:
        raise ValueError(f"a space must have 1 to {most} dimensions, got {dimensions}; fix some of the metaparameters")
    return tuple(_coordinate(number, numbers) for numbers in _direction_numbers(dimensions, variant))


def _coordinate(number: int, directions: list[int]) -> float:
    gray, combined = number ^ (number >> 1), 0
    for bit, direction in enumerate(directions):
        if gray >> bit & 1:
            combined ^= direction
    return combined / 2.0**BITS


def _direction_numbers(dimensions: int, variant: Variant) -> list[list[int]]:
    first = [1] * BITS  # van der Corput
    odd = [first, *(_recurrence(*entry) for entry in DIRECTIONS[variant][: dimensions - 1])]
    return [[m << (BITS - place) for place, m in enumerate(numbers, start=1)] for numbers in odd]


def _recurrence(polynomial: int, initial: tuple[int, ...]) -> list[int]:
    """m_i = 2 a_1 m_(i-1) ^ 4 a_2 m_(i-2) ^ … ^ 2^d m_(i-d) ^ m_(i-d), for x^d + a_1 x^(d-1) + … + 1."""
    numbers, degree = list(initial), polynomial.bit_length() - 1
    while len(numbers) < BITS:
        new = numbers[-degree]
        for back in range(1, degree + 1):
            if polynomial >> (degree - back) & 1:
                new ^= numbers[-back] << back
        numbers.append(new)
    return numbers
