"""Case 3: a preference probability from logged ratios. The unit of the ratios decides it.

python examples/cases/03_probability_from_ratios.py
"""

from __future__ import annotations

import assent
from assent.errors import ConfigError

RATIOS, BETA = [0.2, 0.8], 2.0  # chosen, rejected


def main() -> dict[str, float]:
    print(f"The log says 0.2 for the chosen and 0.8 for the rejected completion; beta = {BETA:g}.\n")
    found = {}
    for unit, meaning in (("log_ratio", "log(policy / reference)"), ("ratio", "policy / reference")):
        answer = found[unit] = assent.explain(ratios=RATIOS, unit=unit, beta=BETA)
        print(
            f"as {meaning}: margin {answer['margin']:+.4f}, preference probability "
            f"{answer['preference_probability']:.4f}, loss {answer['loss']:.4f}; prefers the {answer['prefers']}"
        )
    print("\nBoth prefer the rejected answer, but not by as much; so the unit is asked for, never guessed:")
    try:
        assent.explain(ratios=RATIOS, beta=BETA)
    except ConfigError as error:
        print(f"  {error.what}; expected {error.expected}")
    return {unit: answer["preference_probability"] for unit, answer in found.items()}


if __name__ == "__main__":
    main()
