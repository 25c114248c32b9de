"""Networks of others: read from folders of safetensors, named for what they are."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ornstein.data.image import ImageCodec
from ornstein.data.points import PointsCodec
from ornstein.errors import ModelFileError, UsageError
from ornstein.evaluate.features.foundation import open_foundation
from ornstein.evaluate.features.inception import Inception
from ornstein.rng import generator

COLOUR = ImageCodec(shape=(3, 20, 16), dtype="uint8", mean=(128.0,) * 3, std=(64.0,) * 3)
GREY = ImageCodec(shape=(1, 8, 8), dtype="uint8", mean=(8.0,), std=(6.0,), levels=17, layout="HW")


def transformers():
    return pytest.importorskip("transformers", reason="the extra [text] is not installed")


def save_dinov2(folder):
    config = transformers().Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    torch.manual_seed(0)
    net = transformers().Dinov2Model(config).eval()
    net.save_pretrained(folder)
    return net


def save_clip(folder):
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    parts |= {"num_attention_heads": 2}
    config = transformers().CLIPConfig(
        text_config={**parts, "vocab_size": 100},
        vision_config={**parts, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    net = transformers().CLIPModel(config).eval()
    net.save_pretrained(folder)
    return net


def pictures(codec, count=5):
    values = generator("pictures").integers(0, codec.levels or 256, (count, *codec.shape))
    return codec.pack(torch.from_numpy(values.astype(np.uint8)))


def test_dinov2_in_a_folder_gives_the_features_of_its_summary(tmp_path):
    net = save_dinov2(tmp_path)
    encoder = open_foundation(str(tmp_path), COLOUR)
    assert (encoder.kind, encoder.side) == ("dinov2", 70)
    x = pictures(COLOUR)
    found = encoder(x.numpy())
    assert found.shape == (5, 24)
    assert found.dtype == np.float64
    seen = torch.from_numpy(COLOUR.screen(x)).movedim(3, 1) / 255
    seen = torch.nn.functional.interpolate(seen, (70, 70), mode="bicubic", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = (seen.clamp(0, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = net(pixel_values=seen).last_hidden_state[:, 0]
    assert np.allclose(found, expected.numpy(), atol=1e-5)
    assert encoder.sha256 == open_foundation(str(tmp_path), GREY).sha256


def test_clip_in_a_folder_gives_the_embedding_of_the_picture(tmp_path):
    net = save_clip(tmp_path)
    encoder = open_foundation(str(tmp_path), GREY)
    assert (encoder.kind, encoder.side) == ("clip", 32)
    found = encoder(pictures(GREY).numpy())
    assert found.shape == (5, 12)
    assert np.ptp(found, axis=0).max() > 1e-3
    with torch.no_grad():
        same = net.vision_model.embeddings.patch_embedding.weight
        expected = net.visual_projection.weight
    assert torch.equal(encoder.tensors["visual_projection.weight"], expected)
    assert torch.equal(encoder.tensors["vision_model.embeddings.patch_embedding.weight"], same)
    assert not any("text" in name for name in encoder.tensors)


def test_weights_that_are_absent_are_not_made_up(tmp_path):
    save_dinov2(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    del kept["layernorm.weight"]
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFileError, match=r"layernorm\.weight.*would be random"):
        open_foundation(str(tmp_path), COLOUR)


def test_inception_has_the_weights_and_the_features_of_the_fid(tmp_path):
    net = Inception()
    assert sum(p.numel() for p in net.parameters()) == 21_785_568  # without classifier and aux
    assert len([n for n in net.state_dict() if n.endswith("conv.weight")]) == 94
    save_file({**net.state_dict(), "fc.bias": torch.zeros(1008)}, tmp_path / "model.safetensors")
    encoder = open_foundation(str(tmp_path), COLOUR)
    assert (encoder.kind, encoder.side) == ("inception", 299)
    assert encoder(pictures(COLOUR, 2).numpy()).shape == (2, 2048)
    sides = []
    for block in (net.Conv2d_4a_3x3, net.Mixed_5d, net.Mixed_6e, net.Mixed_7c):
        block.register_forward_hook(lambda _m, _x, y: sides.append(tuple(y.shape[1:])))
    net.eval()(torch.zeros(1, 3, 299, 299))
    assert sides == [(192, 71, 71), (288, 35, 35), (768, 17, 17), (2048, 8, 8)]


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_weights_that_are_not_here_are_told_where_to_come_from(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UsageError, match=r"model.safetensors of huggingface.co/.*--features FOLDER"
    ):
        open_foundation(name, COLOUR)


def test_what_is_no_network_is_refused_in_words(tmp_path):
    with pytest.raises(UsageError, match="no folder, nor one of dinov2, clip"):
        open_foundation("resnet", COLOUR)
    points = PointsCodec(shape=(2,), dtype="float32", mean=(0.0, 0.0), std=(1.0, 1.0))
    with pytest.raises(UsageError, match="is for pictures"):
        open_foundation("dinov2", points)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match="pickled weights are not read"):
        open_foundation(str(tmp_path), COLOUR)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="does not hold the Inception"):
        open_foundation(str(tmp_path), COLOUR)


def test_a_configuration_cannot_name_another_network(tmp_path):
    transformers()
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    for text in (json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}), "[]", "{"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelFileError):
            open_foundation(str(tmp_path), COLOUR)
