"""Which example comes when: an order that depends on seed and epoch only.

Example number n since the start of training belongs to epoch n // N, in which it is number n % N of a pseudo-random
permutation of the N examples. So each is seen exactly once an epoch, and any step's batch can be computed by itself.
"""

import functools

import numpy as np

NO_EPOCH = 2**32 - 1  # in the place of the epoch, in the key of what is drawn once for all epochs


@functools.lru_cache(maxsize=4)  # a batch spans two epochs at most, unless the data set is tiny
def permutation(seed, epoch, num_examples):
    """Returns the order of the examples in an epoch, int64 [num_examples]: a permutation keyed by (seed, epoch).

    RandomState, because its streams are the same in every version of NumPy (NEP 19).
    """
    return np.random.RandomState([seed, epoch]).permutation(num_examples)


def shuffled(numbers, num_examples, seed):
    """Returns which examples (int64 [batch]) those with the given numbers since the start of training are."""
    epochs, positions = np.divmod(numbers, num_examples)
    index = np.empty_like(numbers)  # a batch may reach from one epoch into the next, or over several
    for epoch in np.unique(epochs):
        index[epochs == epoch] = permutation(seed, int(epoch), num_examples)[positions[epochs == epoch]]
    return index


def mirrored(numbers, num_examples, seed):
    """Returns whether the examples with the given numbers are mirrored (bool [batch]): each in every other epoch."""
    first_epoch = _begins_mirrored(seed, num_examples)[shuffled(numbers, num_examples, seed)]
    return first_epoch ^ (numbers // num_examples % 2 == 1)


@functools.lru_cache(maxsize=4)
def _begins_mirrored(seed, num_examples):
    """Returns which examples are mirrored in the even epochs, bool [num_examples], keyed by seed."""
    return np.random.RandomState([seed, NO_EPOCH]).rand(num_examples) < 0.5
