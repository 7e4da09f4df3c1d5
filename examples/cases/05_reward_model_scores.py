"""Case 5: what a reward model's scores mean. Only their differences count; their level is free.

python examples/cases/05_reward_model_scores.py
"""

from __future__ import annotations

import assent

PAIRS = {"A": (3.2, 1.5), "B": (-0.5, -2.0)}  # (score of the preferred, of the other)


def main() -> dict[str, float]:
    found: dict[str, float] = {}
    print("Two comparisons, both ranked rightly:")
    for name, scores in PAIRS.items():
        answer = assent.explain(scores=list(scores))
        found[name] = answer["loss"]
        print(f"  {name} {scores!s:<13} margin {answer['margin']:.1f}  p {answer['preference_probability']:.4f}  "
              f"loss {answer['loss']:.4f}  gradient weight {answer['gradient_weight']:.4f}")  # fmt: skip

    print("\nOnly the difference counts. A's scores, moved:")
    for shift in (-100.0, 0.0, 100.0):
        moved = [score + shift for score in PAIRS["A"]]
        loss = found[f"A{shift:+g}"] = assent.explain(scores=moved)["loss"]
        print(f"  {shift:+6.0f}: loss {loss:.4f}")

    print("\nSo a level says nothing. A threshold of 0, or a mean over two models, reads it all the same:")
    kept = {name: [score > 0 for score in scores] for name, scores in PAIRS.items()}
    for name, keeps in kept.items():
        print(f"  {name}: of two answers {sum(keeps)} are above 0")
    centred = {name: [score - sum(scores) / 2 for score in scores] for name, scores in PAIRS.items()}
    for name, scores in centred.items():
        print(
            f"  {name} centred: {scores[0]:+.2f} and {scores[1]:+.2f}; loss {assent.explain(scores=scores)['loss']:.4f}"
        )
    print("Centre scores on the same reference answers before they are combined or compared with a threshold.")

    print("\nA pair costs most where the preferred one scored lower; from there the loss grows with the gap:")
    for margin in (3.0, 1.0, 0.0, -1.0, -3.0):
        answer = assent.explain(scores=[margin, 0.0])
        found[f"margin{margin:+g}"] = answer["loss"]
        print(f"  margin {margin:+.0f}: loss {answer['loss']:.4f}, gradient weight {answer['gradient_weight']:.4f}")
    found["kept_A"], found["kept_B"] = sum(kept["A"]), sum(kept["B"])
    found["centred_A"] = assent.explain(scores=centred["A"])["loss"]
    return found


if __name__ == "__main__":
    main()
