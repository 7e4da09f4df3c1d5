"""Whether it worked: intervals, win rates, KL, reward-model quality and tables of policies."""
