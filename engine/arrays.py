"""The array type that token ids, slots and block ids have outside of a device."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int32Array: TypeAlias = NDArray[np.int32]
