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


def vae(shift_factor=0.1):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=shift_factor,
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
    from diffusers import DDIMScheduler
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    parts = {"unet": text_unet(**options), "vae": vae()}
    parts |= {"text_encoder": CLIPTextModel(clip_config(layers=1)), "tokenizer": tokenizer(folder)}
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return write(folder, "StableDiffusionPipeline", scheduler, **parts)


def consistent(folder):
    """Latent consistency in small: Stable Diffusion that guides itself, and knows where it ends."""
    from diffusers import LCMScheduler

    torch.manual_seed(0)
    return write(
        folder,
        "LatentConsistencyModelPipeline",
        LCMScheduler(),
        {part: [None, None] for part in ("safety_checker", "feature_extractor", "image_encoder")},
        unet=shaken(text_unet(time_cond_proj_dim=16)),
        vae=vae(shift_factor=None),
        text_encoder=clip(),
        tokenizer=tokenizer(folder),
    )


def text_unet(width=8, attended=0, **options):
    """A network of latents that attends to pieces of texts of `width`, at one of two levels."""
    from diffusers import UNet2DConditionModel

    down, up = ["DownBlock2D"] * 2, ["UpBlock2D"] * 2
    down[attended], up[1 - attended] = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    options = {"attention_head_dim": 2} | options
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=width,
        norm_num_groups=4,
        **options,
    )


def clip_config(width=8, layers=2, projected=None):
    """Of an encoder that says `width` numbers of each piece."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=40,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=projected or width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tokenizer(folder):
    """That reads `WORDS`, letter by letter where it knows no better."""
    from transformers import CLIPTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    place = folder / "words"
    place.mkdir(parents=True, exist_ok=True)
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


# --- Told texts by several encoders --------------------------------------------------------------


def shaken(net, std=0.1):
    """With noise on all weights: many layers of a new network say nothing, or little."""
    for parameter in net.parameters():
        parameter.data += std * torch.randn(parameter.shape)
    return net


def clip(width=8, projected=None):
    """An encoder that says `width` numbers of each piece, and of the whole as many, or others."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    small = clip_config(width, projected=projected)
    return shaken(CLIPTextModelWithProjection(small) if projected else CLIPTextModel(small))


def t5(width=24):
    from transformers import T5Config, T5EncoderModel

    small = T5Config(vocab_size=40, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return shaken(T5EncoderModel(small))


def t5_tokenizer():
    """That reads `WORDS`, letter by letter where it knows no better."""
    from transformers import T5TokenizerFast

    letters = sorted({letter for word in WORDS for letter in word})
    known = ["<pad>", "</s>", "<unk>", "▁", *letters, *(f"▁{word}" for word in WORDS)]
    scores = [(piece, -float(i)) for i, piece in enumerate(known)]
    return T5TokenizerFast(vocab=scores, extra_ids=0, model_max_length=512)


def large(folder, scheduler=None, **more):
    """Stable Diffusion XL in small."""
    from diffusers import DDIMScheduler

    torch.manual_seed(0)
    net = text_unet(
        8 + 12,
        attended=1,
        attention_head_dim=(2, 4),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 5,
    )
    scheduler = scheduler or DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing"
    )
    return write(
        folder,
        "StableDiffusionXLPipeline",
        scheduler,
        more,
        unet=shaken(net),
        vae=vae(shift_factor=None),
        text_encoder=clip(),
        tokenizer=tokenizer(folder),
        text_encoder_2=clip(12, projected=5),
        tokenizer_2=tokenizer(folder),
    )


def joint(folder, read_on=True):
    """Stable Diffusion 3 in small; its third encoder may be left out."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    torch.manual_seed(0)
    net = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=8,
        pooled_projection_dim=5 + 6,
        pos_embed_max_size=8,
    )
    third = {"text_encoder_3": t5(), "tokenizer_3": t5_tokenizer()}
    left_out = {name: [None, None] for name in (*third, "image_encoder", "feature_extractor")}
    return write(
        folder,
        "StableDiffusion3Pipeline",
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        left_out,
        transformer=shaken(net),
        vae=vae(),
        text_encoder=clip(8, projected=5),
        tokenizer=tokenizer(folder),
        text_encoder_2=clip(12, projected=6),
        tokenizer_2=tokenizer(folder),
        **(third if read_on else {}),
    )


def pixart(folder, side=128):
    """PixArt in small; on a side of 128 points its network is told sizes."""
    from diffusers import DDIMScheduler, PixArtTransformer2DModel

    torch.manual_seed(0)
    net = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=4,
        cross_attention_dim=12,
        num_layers=1,
        sample_size=side,
        caption_channels=24,
    )
    return write(
        folder,
        "PixArtAlphaPipeline",
        DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
        transformer=shaken(net),
        vae=vae(shift_factor=None),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )


def latent(folder):
    """The first pipeline of texts in latents, whose encoder is of diffusers itself."""
    from diffusers import DDIMScheduler
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )
    from transformers import BertTokenizerFast

    torch.manual_seed(0)
    net = text_unet()
    small = LDMBertConfig(
        vocab_size=40,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        head_dim=4,
        d_model=8,
    )
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words = {piece: i for i, piece in enumerate(known)}
    folder = write(
        folder,
        "LDMTextToImagePipeline",
        DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
        unet=shaken(net),
        vqvae=vae(shift_factor=None),
        bert=shaken(LDMBertModel(small)),
        tokenizer=BertTokenizerFast(vocab=words, model_max_length=512),
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["bert"] = ["latent_diffusion", "LDMBertModel"]  # as diffusers says where it is
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def flux(folder, guided=False):
    """Flux in small, which may have learned to guide itself."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    torch.manual_seed(0)
    net = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=8,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    )
    line = {"base_image_seq_len": 2, "max_image_seq_len": 16}
    return write(
        folder,
        "FluxPipeline",
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **line),
        {"image_encoder": [None, None], "feature_extractor": [None, None]},
        transformer=shaken(net),
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(folder),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )
