"""Numbers as a reader sees them: accuracies in %, mean ± sd, sizes with a unit, and 'no gain' where there is none."""

import math

UNITS = (" B", " kB", " MB", " GB", " TB")


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction in %, without the sign: 0.9712 is 97.12; a number that is not finite stays visible."""
    return f"{100 * fraction:.{digits}f}"


def zeros(fraction: float, digits: int = 2) -> str:
    """A fraction of zeros in %, with as many digits as tell it from 100: 0.99996 is 99.996."""
    kept = 1 - fraction
    return percent(fraction, digits if kept <= 0 else max(digits, math.floor(-math.log10(kept)) - 1))


def sparsity(fraction: float) -> str:
    """A requested sparsity: '90 %'; 'open' where none was requested and it is an outcome."""
    return "open" if math.isnan(fraction) else f"{100 * fraction:.6g} %"


def spread(mean: float, deviation: float, n: int, digits: int = 2) -> str:
    """'97.12 ± 0.30', or '97.12' for a single value, whose spread is unknown."""
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if n > 1 else f"{mean:.{digits}f}"


def sample(mean: float, deviation: float, n: int, unit: str = "") -> str:
    """``spread`` with its n: '97.12 ± 0.30 (n=5)'."""
    return f"{spread(mean, deviation, n)}{unit} (n={n})"


def realised(fraction: float, deviation: float, n: int) -> str:
    """A realised sparsity: '89.99 %', with its sd only where seeds differ: '84.20 ± 1.02 %'."""
    if n > 1 and deviation >= 5e-5:
        return f"{spread(100 * fraction, 100 * deviation, n)} %"
    return f"{zeros(fraction)} %"


def points(mean: float, deviation: float, n: int) -> str:
    """A difference of two fractions in percentage points, signed: '-0.52 ± 0.21'."""
    return f"{100 * mean:+.2f}" + (f" ± {100 * deviation:.2f}" if n > 1 else "")


def count(number: float) -> str:
    """A count or a mean of counts: '8,448' below ten thousand, else three digits and a unit: '85.0 k', '1.23 M'."""
    if number < 100:
        return f"{number:.3g}"
    if number < 10_000:
        return f"{number:,.0f}"
    return scaled(number, ("", " k", " M", " G", " T"))


def size(bytes_: float) -> str:
    """A file's size in decimal units: '45.0 kB'."""
    return f"{bytes_:.0f} B" if bytes_ < 1000 else scaled(bytes_, UNITS)


def bytes_or_nothing(bytes_: float) -> str:
    """``size``, or 'not measured'."""
    return "not measured" if math.isnan(bytes_) else size(bytes_)


def unit(most: float) -> tuple[str, float]:
    """The unit in which sizes up to ``most`` bytes read well, and its bytes: ('kB', 1000.0)."""
    thousands = min(int(math.log10(max(most, 1.0)) // 3), len(UNITS) - 1)
    return UNITS[thousands].strip(), 1000.0**thousands


def scaled(number: float, units: tuple[str, ...]) -> str:
    """Three digits of ``number`` and the unit for its thousands."""
    thousands = min(int(math.log10(number) // 3), len(units) - 1)
    value = number / 1000**thousands
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f}{units[thousands]}"


def part(kept: float, total: float) -> str:
    """What is kept of a total: '8,448 (10.0 %)'."""
    return f"{count(kept)} ({percent(kept / total, 1)} %)"


def gain(ratio: float) -> str:
    """A factor over dense: '10.00×', with 'no gain' said where it is at most one."""
    return f"{ratio:.2f}×" + (", no gain" if ratio <= 1 else "")


def throughput(ratio: float, low: float, high: float) -> str:
    """A measured factor with its quartiles and what it amounts to: '0.83× (0.80 to 0.86), no gain'."""
    if math.isnan(ratio):
        return "not measured"
    verdict = ", no gain" if ratio <= 1 else ", no clear gain" if low <= 1 else ""
    return f"{ratio:.2f}× ({low:.2f} to {high:.2f}){verdict}"


def images(per_second: float) -> str:
    """Absolute throughput: '1,454', or 'not measured'."""
    return "not measured" if math.isnan(per_second) else count(per_second)


def packing(dense: float, packed: float) -> str:
    """The factor by which packing shrinks the file: '7.56× smaller', or 'no gain'."""
    return f"{dense / packed:.2f}× smaller" if packed < dense else "no gain"


def steps(steps: float, extra: float) -> str:
    """Optimizer steps, and gradient passes beyond them: '600 + 10'."""
    return f"{steps:,.0f}" + (f" + {extra:,.0f}" if extra else "")


def epochs(number: float) -> str:
    """A length of training: '2.5 epochs'."""
    return f"{count(number)} epoch{'' if number == 1 else 's'}"


def listed(names: list[str]) -> str:
    """Names as prose: 'gmp, rigl and snip'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def runs_of(runs: int, n: int) -> str:
    """'3 of 5 runs'."""
    return f"{runs} of {n} run{'s' if n > 1 else ''}"
