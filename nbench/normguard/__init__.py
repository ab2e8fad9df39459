"""Reinforcement fine-tuning of flow-matching models, with guards on the velocity norm.

`losses` and `guards` are pure functions on tensors, one number per sample; `advantage` turns rewards into advantages.
Notation throughout: clean latent x_0, noise eps ~ N(0, I), x_t = (1 - t) x_0 + t eps, target velocity v = eps - x_0,
t in [0, 1] with t = 1 noise (the network is given 1000 t). D is the number of latent elements of a picture, and
MSE(a, b) = mean_D (a - b)^2: means over D, never sums, so that a coefficient does not depend on the picture's size.
theta is the policy, old the policy that made the rollouts, ref the frozen base, A the advantage.
"""
