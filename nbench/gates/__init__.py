"""Release gates: a policy, its verdicts, and how many prompts it takes."""
