"""Case 6: which response the KL penalty charges, by how many nats, and at which tokens.

The reference gives "Yes." a high probability and the long paraphrase almost none. The penalty does not charge a low
reference probability. It charges the difference to the policy: log policy - log reference, summed over the response's
own tokens.

    python examples/cases/06_kl_penalty_per_response.py
"""

from __future__ import annotations

import torch

from assent.objectives import kl, token_rewards

KL_COEF = 0.05
# Each response: its tokens, and for each the probability under the policy and under the reference.
RESPONSES = {
    "Yes.": (("Yes", 0.05, 0.80), (".", 0.95, 0.95), ("<eos>", 0.99, 0.99)),
    "It is indeed just as you say.": (
        ("It", 0.90, 0.02),
        (" is", 0.95, 0.50),
        (" indeed", 0.90, 0.01),
        (" just", 0.80, 0.02),
        (" as", 0.95, 0.60),
        (" you", 0.95, 0.40),
        (" say", 0.95, 0.50),
        (".", 0.98, 0.70),
        ("<eos>", 0.99, 0.95),
    ),
    "Zounds.": (("Zounds", 0.001, 0.001), (".", 0.95, 0.95), ("<eos>", 0.99, 0.99)),
}


def main() -> dict[str, dict[str, float]]:
    found = {}
    for name, tokens in RESPONSES.items():
        logps = torch.tensor([p for _, p, _ in tokens], dtype=torch.float64).log()
        reference = torch.tensor([q for _, _, q in tokens], dtype=torch.float64).log()
        k1, k3 = kl("k1", logps, reference), kl("k3", logps, reference)
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        rewards = token_rewards(k1[None], torch.zeros(1, dtype=k1.dtype), mask, kl_coef=KL_COEF)[0]
        print(f'"{name}"\n   token        policy  reference   nats (k1)   penalty -{KL_COEF} * k1')
        for (token, p, q), nats, reward in zip(tokens, k1.tolist(), rewards.tolist(), strict=True):
            print(f"   {token!r:<12} {p:6.3f} {q:10.3f} {nats:+11.4f} {reward:+13.4f}")
        found[name] = {
            "log_policy": float(logps.sum()),
            "log_reference": float(reference.sum()),
            "k1": float(k1.sum()),
            "k3": float(k3.sum()),
            "penalty": float(rewards.sum()),
        }
        print(f"   sum: log policy {logps.sum():.2f}, log reference {reference.sum():.2f}, KL {k1.sum():+.2f} nats, "
              f"penalty {rewards.sum():+.4f}; as k3 {k3.sum():.2f} nats\n")  # fmt: skip
    short, long, rare = found.values()
    print(f"The paraphrase is charged {long['k1']:.2f} nats, most of them at words that the reference would not say.")
    print(f'"Yes.", where it is sampled, is paid {-short["k1"]:.2f}: the policy says it less often than the reference.')
    print(f"   k1 of one sample may be negative, its mean over the policy's samples not; k3 is {short['k3']:.2f} here.")
    print(
        f'"Zounds.", unlikely under both, costs {abs(rare["k1"]):.2f}: a low reference probability alone is no charge.'
    )
    return found


if __name__ == "__main__":
    main()
