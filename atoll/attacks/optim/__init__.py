"""Components of attacks by optimisation: matching costs, priors, step rules, schedules."""
