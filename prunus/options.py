"""Kinds of options that several commands have."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

Plugins = Annotated[tuple[str, ...], Parameter(name="--plugin", negative=())]
Seconds = Annotated[float, Parameter(validator=Number(gte=0))]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]
