import pytest
import torch
from torch import nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.model_building import build_model
from atoll.clients.noprop.networks.blocks import BLOCK_SIZES, Block, ByteDropout, TimeFeatures
from atoll.clients.settings import ModelSettings
from tests.support.clients.small_networks import design


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("image_shape", "classes", "count"),
    [((1, 28, 28), 10, 2_001_290), ((3, 32, 32), 10, 2_493_386), ((3, 32, 32), 100, 2_528_036)],
)
def test_the_papers_block_has_the_papers_size(image_shape, classes, count):
    assert parameters(design(image_shape=image_shape, classes=classes).make_block()) == count


def test_the_small_block_has_seventy_thousand_parameters():
    assert parameters(design(block="small").make_block()) == 70_058


def test_the_parts_of_the_joint_layer_are_one_layer_on_the_concatenated_paths():
    torch.manual_seed(0)
    block = design(block="small", norm="none").make_block().double().eval()
    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    z = torch.randn(3, 10, dtype=torch.float64)
    weight = torch.cat([block.from_image.weight, block.from_label.weight], 1)
    paths = torch.cat([block.image(images), block.label(z)], 1)
    joint = paths @ weight.T + block.from_image.bias
    assert torch.allclose(block(images, z), block.top(joint), atol=1e-12)


def test_pooling_before_the_relu_is_the_papers_order():
    torch.manual_seed(0)
    block = design().make_block().eval()
    images = torch.randn(2, 1, 28, 28)
    conv1, _, _, _, conv2, _, _, conv3, _, _, _, *rest = block.image
    relu, pool = torch.relu, nn.MaxPool2d(2)
    expected = pool(relu(conv3(relu(conv2(pool(relu(conv1(images))))))))
    for module in rest:
        expected = module(expected)
    assert torch.allclose(block.image(images), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["noprop-ct", "noprop-fm"])
def test_blocks_of_continuous_time_have_no_norm_and_depend_on_time(name):
    torch.manual_seed(0)
    block = design(name).make_block().eval()
    assert not any(isinstance(m, nn.BatchNorm1d | nn.GroupNorm) for m in block.modules())
    images, z = torch.randn(2, 1, 28, 28), torch.randn(2, 10)
    early, late = (block(images, z, torch.tensor([time])) for time in (0.1, 0.9))
    assert not torch.allclose(early, late)


def test_a_block_depends_on_the_image_and_on_z():
    torch.manual_seed(0)
    block = design(block="half").make_block().eval()
    images, z = torch.randn(2, 1, 28, 28), torch.randn(2, 10)
    logits = block(images, z)
    assert not torch.allclose(block(images.flip(0), z), logits)
    assert not torch.allclose(block(images, z.flip(0)), logits)


def test_prototypes_are_seen_as_images():
    block = design(block="small", embedding="prototype").make_block()
    assert any(isinstance(module, nn.Conv2d) for module in block.label)
    assert block(torch.randn(2, 1, 28, 28), torch.randn(2, 784)).shape == (2, 10)


def test_byte_dropout_zeroes_its_share_keeps_the_mean_and_does_nothing_in_evaluation():
    torch.manual_seed(0)
    x = torch.ones(64, 8, 20, 20).to(memory_format=torch.channels_last)
    dropout = ByteDropout(0.2)
    y = dropout(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    zeroed = (y == 0).float()
    assert abs(float(zeroed.mean()) - 51 / 256) < 0.003
    assert abs(float(zeroed.mean((0, 2, 3)).std())) < 0.01
    assert abs(float(y.mean()) - 1) < 0.004
    assert torch.equal(dropout.eval()(x), x)


def test_byte_dropouts_gradient_is_that_of_its_mask():
    x = torch.randn(1000, requires_grad=True)
    y = ByteDropout(0.5)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.where(y == 0, 0.0, 2.0))


def test_time_features_tell_neighbouring_times_apart():
    times = torch.linspace(0, 1, 1001)
    features = TimeFeatures()(times)
    assert features.shape == (1001, 64)
    assert float((features[1:] - features[:-1]).norm(dim=1).min()) > 0.1


def test_convolutions_in_bfloat16_are_close_and_give_float32():
    torch.manual_seed(0)
    exact = design(block="half").make_block().eval()
    coarse = design(block="half", precision="bfloat16").make_block().eval()
    coarse.load_state_dict(exact.state_dict())
    images = torch.randn(4, 1, 28, 28)
    features = coarse.features(images)
    assert features.dtype == torch.float32
    assert not torch.equal(features, exact.features(images))
    assert torch.allclose(features, exact.features(images), atol=0.05)


def test_images_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(ValueError, match="images of 3x3: expected at least 4x4"):
        Block(images_of((1, 3, 3)), 10, 10, BLOCK_SIZES["paper"], "batch")


@pytest.mark.parametrize("name", ["noprop-dt", "noprop-ct", "noprop-fm"])
def test_networks_are_models_by_name(name):
    settings = ModelSettings.model_validate({"name": name, "block": "small", "steps": 3})
    model = build_model(settings, (1, 8, 8), 10, 0)
    model.eval()
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model(images), model(images))
