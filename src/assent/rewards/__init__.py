"""Sources of rewards: a reward model, a Python function, a rule, a server, a DPO policy, or several of them."""
