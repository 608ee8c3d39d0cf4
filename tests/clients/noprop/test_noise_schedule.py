import torch

from atoll.clients.noprop.networks.noise_schedule import LearnedSchedule


def schedule(seed=0):
    torch.manual_seed(seed)
    made = LearnedSchedule().double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    return made


def test_the_signal_grows_between_its_ends_whatever_the_parameters_are():
    for seed in range(20):
        made = schedule(seed)
        level = made.level(torch.linspace(0, 1, 501, dtype=torch.float64))
        assert (level[1:] > level[:-1]).all()
        assert 0.0 < level[0] < level[-1] < 1.0
        assert torch.allclose(torch.logit(level[-1]), -made.gamma_0)


def test_before_training_it_goes_from_noise_to_label():
    torch.manual_seed(0)
    level = LearnedSchedule().level(torch.tensor([0.0, 1.0]))
    assert level[0] < 0.001
    assert level[1] > 0.999


def test_the_derivative_is_that_of_the_signal_to_noise_ratio():
    made = schedule()
    time = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    snr, derivative = made.snr_and_derivative(time)
    level = made.level(time)
    assert torch.allclose(snr, level / (1 - level))
    step = 1e-6
    after, before = (made.level(time + sign * step) for sign in (1, -1))
    numeric = (after / (1 - after) - before / (1 - before)) / (2 * step)
    assert torch.allclose(derivative, numeric, rtol=1e-5)
    derivative.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    assert float(made.weight_in.grad.abs().max()) > 0
