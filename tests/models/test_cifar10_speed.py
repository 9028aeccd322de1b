import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.exactness.same import DIGITS, differences
from visionbench.data import Digits
from visionbench.errors import UserError
from visionbench.models import WhitenedCNN
from visionbench.runs.folder import RunFolder

LINE = f"{DIGITS} --model WhitenedCNN --model.widths [8,16] --data.batch_size 64 --model.optimizer ConvMuon"


def test_the_network_is_that_of_the_paper():
    model = WhitenedCNN(10, (3, 32, 32))
    # 24 filters of 2 x 2 x 3 and their biases; filters of 3 x 3 and a shift for each of six convolutions; the head.
    filters = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 + 256 * 256 + 256 * 256)
    trained = 24 + filters + 2 * (64 + 256 + 256) + 2560
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    images = torch.randn(2, 3, 32, 32)
    # At first a block hands its input on: as many filters as it has channels are identities.
    whitened = model.network.whiten(images)
    assert torch.equal(model.network.blocks[1][0](whitened)[:, :24], whitened)
    assert model(images).abs().max() < 1


def test_patches_are_white_behind_the_filters():
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(200, 3, 34, 34), 3, stride=1) * torch.tensor([1.0, 3.0, 0.5])[:, None, None]
    model = WhitenedCNN(10, (3, 32, 32))
    model.whiten(images.split(64))
    weight = model.network.whiten.weight
    assert torch.equal(weight[:12], -weight[12:])
    outputs = F.conv2d(images, weight)[:, :12].transpose(0, 1).flatten(1)
    moments = outputs @ outputs.T / outputs.shape[1]
    # The variance of the eigenvectors with small eigenvalues falls short of 1, by what was added to it.
    torch.testing.assert_close(moments - moments.diag().diag(), torch.zeros(12, 12), rtol=0, atol=1e-4)
    assert moments.diag().min() > 0.8
    assert moments.diag().max() < 1.0001


def test_no_more_than_the_first_5000_images_are_whitened():
    images = torch.randn(6000, 1, 8, 8)
    first, all_of_them = WhitenedCNN(10, (1, 8, 8), widths=[4]), WhitenedCNN(10, (1, 8, 8), widths=[4])
    first.whiten([images[:5000]])
    all_of_them.whiten(images.split(700))
    torch.testing.assert_close(first.network.whiten.weight, all_of_them.network.whiten.weight)


@pytest.mark.parametrize("views", ["flip", "flip_shift"])
def test_outputs_are_averaged_over_views_in_evaluation_only(views):
    torch.manual_seed(0)
    plain = WhitenedCNN(10, (1, 16, 16), widths=[4])
    model = WhitenedCNN(10, (1, 16, 16), widths=[4], views=views)
    model.load_state_dict(plain.state_dict())
    images = torch.randn(3, 1, 16, 16)
    assert torch.equal(model.train()(images), plain.train()(images))
    model.eval(), plain.eval()
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[..., :16, :16], padded[..., 2:, 2:]]
    shares = {"flip": [(images, 1)], "flip_shift": [(images, 1 / 2), *((view, 1 / 4) for view in shifted)]}[views]
    expected = sum(share * (plain(view) + plain(view.flip(-1))) / 2 for view, share in shares)
    torch.testing.assert_close(model(images), expected)


def test_an_image_too_small_for_the_blocks_is_refused():
    WhitenedCNN(10, (3, 9, 9))
    with pytest.raises(UserError, match=r"8 x 9 pixels is too small for 3 blocks.*at least 9 x 9"):
        WhitenedCNN(10, (3, 8, 9))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_a_trainer_without_a_data_module_needs_the_images_first():
    batches = [(torch.randn(8, 1, 8, 8), torch.arange(8)) for _ in range(2)]
    model = WhitenedCNN(10, (1, 8, 8), widths=[4])
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    with pytest.raises(UserError, match=r"call the model's whiten\(\)"):
        Trainer(**options, enable_progress_bar=False, enable_model_summary=False).fit(
            model, DataLoader(batches, batch_size=None)
        )
    model.whiten(images for images, _ in batches)
    filters = model.network.whiten.weight.clone()
    Trainer(**options, enable_progress_bar=False, enable_model_summary=False).fit(
        model, DataLoader(batches, batch_size=None)
    )
    assert torch.equal(model.network.whiten.weight, filters)


def test_a_run_begins_with_whitened_patches_and_goes_on_with_its_own(cli, tmp_path, digits_root):
    assert cli(f"{LINE} --trainer.max_epochs 3 --name whole").status == 0
    assert cli(f"{LINE} --trainer.max_epochs 2 --name part").status == 0
    whole, part = (tmp_path / "lightning_logs" / name / "version_0" for name in ("whole", "part"))
    data = Digits(root=str(digits_root), seed=0)
    data.setup()
    expected = WhitenedCNN(10, (1, 8, 8), widths=[8, 16])
    expected.whiten(images for images, _ in data.train_dataloader().again())
    kept = WhitenedCNN.load_from_checkpoint(RunFolder(whole).result_checkpoint(), map_location="cpu")
    torch.testing.assert_close(kept.network.whiten.weight, expected.network.whiten.weight)
    assert not torch.equal(kept.network.whiten.bias, expected.network.whiten.bias)
    assert cli(f"fit --resume {part} --trainer.max_epochs 3").status == 0
    assert differences(whole, part) == []
