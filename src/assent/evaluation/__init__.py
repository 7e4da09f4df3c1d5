"""Whether training helped: win rates, KL, safety, the quality of reward models, over-optimisation."""
