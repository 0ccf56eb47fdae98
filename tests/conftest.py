"""One thread: the networks here are tiny, and the order of a sum may not depend on the machine."""

import torch

torch.set_num_threads(1)
