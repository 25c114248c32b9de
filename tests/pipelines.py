"""Tiny pipelines of diffusers with random weights, written as diffusers writes them."""

import json

import torch

WORDS = ("a", "cat", "red", "blue")


def unet(channels=1, size=8, **options):
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    )


def vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    )


def write(folder, name, scheduler, more=None, **parts):
    """A pipeline of networks, each of which can ``save_pretrained``; its folder."""
    torch.manual_seed(0)
    index = {"_class_name": name, "_diffusers_version": "0.42.0", **(more or {})}
    for part, thing in {"scheduler": scheduler, **parts}.items():
        library = type(thing).__module__.split(".")[0]
        index[part] = [library, type(thing).__name__]
        thing.save_pretrained(folder / part)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def ddpm(folder, scheduler=None, **options):
    """Of pixels, without conditions."""
    from diffusers import DDPMScheduler

    torch.manual_seed(0)
    return write(folder, "DDPMPipeline", scheduler or DDPMScheduler(), unet=unet(**options))


def stable(folder, **options):
    """Of latents of an autoencoder, told texts: Stable Diffusion in small."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    )
    small = CLIPTextConfig(
        vocab_size=40,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    parts = {"unet": net, "vae": vae(), "text_encoder": CLIPTextModel(small)}
    parts["tokenizer"] = tokenizer(folder)
    return write(folder, "StableDiffusionPipeline", scheduler, **parts)


def tokenizer(folder):
    """That reads `WORDS`, letter by letter where it knows no better."""
    from transformers import CLIPTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    place = folder / "words"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=12)


def dit(folder, scheduler=None, latent=True):
    """A transformer told classes, with a variance beside its noise."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4 if latent else 1,
        out_channels=8 if latent else 1,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=3,
        norm_num_groups=4,
    )
    for parameter in net.parameters():  # some of them start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    names = {"id2label": {"0": "ant", "1": "bee", "2": "cat"}}
    coder = {"vae": vae()} if latent else {}
    return write(
        folder, "DiTPipeline", scheduler or DDIMScheduler(), names, transformer=net, **coder
    )
