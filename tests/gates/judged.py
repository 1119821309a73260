"""Pairs that a judge has decided who likes longer answers: how long they are, and what it says of them.

The shape is that of a critique of the gates: in a share of the pairs the judge names the longer answer, whatever people
would say; in the others it says what people would. Nothing here reads how the gate corrects it.
"""

import numpy as np
from numpy.typing import NDArray


def draw_pairs(
    pairs: int,
    draws: int,
    *,
    drop: float,
    longer: float,
    liking: float,
    seed: int,
    differ: float = 0.5,
    grows: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws outcomes (1 lost, -1 won, 0 neither) and by how many words the candidate's answers are longer.

    One row a draw, one column a pair.

    Args:
        pairs: pairs of a draw.
        draws: how many draws.
        drop: net share of pairs that people would say are lost.
        longer: share of pairs in which the candidate's answer is the longer one.
        liking: share of pairs in which the judge names the longer answer.
        seed: of the draws.
        differ: share of pairs that people would decide.
        grows: the liking grows with how much longer an answer is, to twice as much at the most.
    """
    draw = np.random.default_rng(seed)
    shape = (draws, pairs)
    side = np.where(draw.random(shape) < longer, 1, -1)
    words = side * (1 + draw.geometric(1 / 30, shape))
    at = draw.random(shape)
    lost, won = (differ + drop) / 2, (differ - drop) / 2
    outcome = np.where(at < lost, 1, np.where(at < lost + won, -1, 0))
    reach = 2 * np.tanh(np.abs(words) / 40) if grows else 1.0
    return np.where(draw.random(shape) < liking * reach, -side, outcome), words
