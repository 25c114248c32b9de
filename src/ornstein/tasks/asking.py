"""What is asked of a run: conditions in its terms, and guidance towards them."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.denoise import Denoiser
from ..core.guide import ALWAYS, Autoguidance, ClassifierFree, Composed, LearnedGuidance
from ..data.captions import Words
from ..data.given import fitted, mixed
from ..data.names import shown
from ..data.places import files_in
from ..errors import Notice, UsageError
from ..rng import normal
from ..runs.model import Model
from ..runs.prompt import Prompt, terms_of, told_by
from ..runs.quick import early
from .options import DrawOptions

NAMED = 10  # unknown words of a text
IN_WORDS = ("negative", "source", "from_text", "to_text")  # options that are one text each

Context = Callable[[Sequence[int]], Tensor]
"""What examples are given to start from, by their numbers: ``(B, Cg, *S)`` as networks see it."""

Heard = Callable[[Sequence[int]], Tensor]
"""The embeddings that examples are to have, by their numbers: ``(B, E)`` as networks hear them."""


def conditions(
    model: Model,
    options: DrawOptions,
    indices: Sequence[int],
    context: Context | None = None,
    heard: Heard | None = None,
) -> dict[str, Tensor]:
    """The conditions of the examples `indices`; labels and texts are dealt out by index.

    What is `heard` takes the place of what an encoder says of the texts; a run that reads them
    is told them too.

    Raises:
        UsageError: If they do not suit the run.
    """
    if context is None and options.given is not None:
        raise UsageError("Pictures to start from are for sampling: leave --given out.")
    if context is None and options.given_noise:
        raise UsageError("--given-noise is for what is --given: leave it out, or give some.")
    labels = options.label
    if labels is not None:
        labels = [labels[i % len(labels)] for i in indices]
    told = model.vocabulary.tensors(len(indices), labels, options.attributes)
    if (prompts := prompts_of(options)) and (heard is None or model.vocabulary.words is not None):
        asked = [prompts[i % len(prompts)] for i in indices]
        told |= texts(model, asked, terms_of(prompts))
    if heard is not None:
        told["embedding"] = heard(indices)
    if context is not None:
        told["context"] = context(indices)
        if share := options.given_noise:
            if not model.config.data.given_noise:
                raise UsageError(
                    f"{model.place} was not trained with noise in what is given: leave "
                    "--given-noise out, or train it with --data.given-noise."
                )
            shape = told["context"].shape[1:]
            noise = torch.stack([normal(shape, options.seed, "given", i) for i in indices])
            told["context"] = mixed(told["context"], noise, share)
            told["augment"] = torch.zeros(len(indices), model.config.data.augmentations)
            told["augment"][:, -1] = share
    return {name: value.to(model.device) for name, value in told.items()}


def label_names(
    model: Model, options: DrawOptions, indices: Sequence[int]
) -> tuple[str, ...] | None:
    """The class of each of the examples `indices`, by its name in the data."""
    if (labels := options.label) is None:
        return None
    numbers = [model.vocabulary.label(name) for name in labels]
    names = ["any" if n < 0 else model.vocabulary.classes[n] for n in numbers]
    return tuple(names[i % len(names)] for i in indices)


def prompts_of(options: DrawOptions) -> tuple[Prompt, ...]:
    """The texts that the options ask for, read."""
    return tuple(Prompt.read(text) for text in options.text or ())


def texts(model: Model, prompts: Sequence[Prompt], terms: int = 0) -> dict[str, Tensor]:
    """The conditions of as many examples as there are prompts; see `told_by`.

    Raises:
        UsageError: If the run knows no captions, or cannot hear what is asked.
    """
    if model.words is None:
        raise UsageError("This run was trained without captions: leave texts out.")
    reads = model.vocabulary.words is not None
    if model.encoder is None or (reads and model.config.embedding.role == "decoder"):
        return told_by(prompts, model.words, terms)
    if terms or any(weight != 1 for p in prompts for _, weight in p.terms[0].spans):
        raise UsageError("This run hears of a text as a whole: leave AND, NOT and emphasis out.")
    said = [prompt.terms[0].text for prompt in prompts]
    told = {"embedding": model.encoder.texts.standard(model.encoder.of_texts(said))}
    return told | ({"text": model.words.tensor(said)} if reads else {})


def warn_of_texts(model: Model, options: DrawOptions) -> None:
    """Warn of what a run does not read of texts, as they are too long, and of words it never had.

    Of all texts that the options of any verb have: what is asked for, and `IN_WORDS`.
    """
    if (words := model.words) is None:
        return
    others = (getattr(options, name, None) for name in IN_WORDS)
    prompts = [*prompts_of(options), *(Prompt.read(text) for text in others if text)]
    for text in dict.fromkeys(term.text for prompt in prompts for term in prompt.terms):
        if rest := words.unread(text):
            said = f"The text {shown(text)!r} is longer than what is read of it; left out: "
            warnings.warn(f"{said}{shown(rest)!r}.", Notice, stacklevel=2)
        if isinstance(words, Words) and (unknown := words.unknown(text)):
            some = ", ".join(repr(shown(word)) for word in unknown[:NAMED])
            said = f"No two captions of the run had {some}: "
            warnings.warn(f"{said}what is read by its letters is a guess.", Notice, stacklevel=2)


def context_of(model: Model, options: DrawOptions) -> Context | None:
    """What the options give to start from, dealt out in turn.

    Raises:
        UsageError: If the run is not one of pairs.
        DataError: If a picture cannot be read.
    """
    if options.given is None:
        return None
    if model.given is None:
        raise UsageError("This run was not trained on pairs: leave --given out.")
    paths = files_in(options.given)
    context = context_from(model, torch.cat([model.given.read(path) for path in paths]).numpy())
    return lambda indices: context[torch.tensor(indices) % len(context)]


def context_from(model: Model, stored: np.ndarray) -> Tensor:
    """The condition ``context`` ``(P, channels, *S)`` of a run of pairs, of pictures as stored."""
    assert model.given is not None
    packed = model.given.pack(torch.from_numpy(stored))
    return fitted(packed, model.shape[1:], model.vocabulary.block)


def guided(model: Model, options: DrawOptions, heard: bool = False) -> Denoiser:
    """The denoiser of a run with the guidance that the options ask for.

    Args:
        model: The run.
        options: What is asked of it.
        heard: Whether embeddings are to be heard, of which the options know nothing.

    Raises:
        UsageError: If guidance has nothing to guide towards, or cannot be put together so.
    """
    prompts = prompts_of(options)
    named = any(model.vocabulary.label(name) >= 0 for name in options.label or ())
    asked = named or prompts or options.negative or options.attributes
    told = bool(asked or heard or model.given)
    if options.guidance not in (None, 1.0) and not told:
        raise UsageError(
            f"guidance = {options.guidance} needs a label, a text or an attribute to go to."
        )
    weight = model.config.sample.guidance if options.guidance is None else options.guidance
    interval = options.guidance_interval or ALWAYS
    if not interval[0] < interval[1]:
        raise UsageError(f"guidance_interval = {interval} must go from low to high log-SNR.")
    negative, net = _negative(model, options), model.denoiser
    own, parallel = model.config.sample.guidance_parallel, options.guidance_parallel
    shaped = parallel not in (None, 1.0) or options.guidance_rescale != 0
    shape = (own if parallel is None else parallel, options.guidance_rescale)
    composed = terms_of(prompts) > 0
    follows = composed or (told and weight != 1)
    if negative and not follows:
        raise UsageError(
            "--negative is what guidance goes away from, and a weight of 1 is no guidance: say "
            "--guidance 3 too."
        )
    acts = follows or options.autoguidance != 1
    if (shaped and not follows) or (options.guidance_interval and not acts):
        missing = "--guidance 3" if told else "what to go to by --label, --text or --attributes"
        raise UsageError(
            "--guidance-interval, --guidance-parallel and --guidance-rescale are of guidance, and "
            f"there is none: say {missing} too, or leave them out."
        )
    if model.config.distill.told_guidance:
        if options.autoguidance != 1:
            raise UsageError("This run has learned its guidance: leave --autoguidance out.")
        least, most = model.config.distill.guidance
        if not told or weight == 1:
            return net
        if not least <= weight <= most:
            raise UsageError(
                f"guidance = {weight}: this run has learned weights from {least} to {most}."
            )
        if negative or shaped or composed:
            raise UsageError(
                "This run has learned its guidance: it knows no other text to go away from, and "
                "none to add."
            )
        return LearnedGuidance(net, weight, interval)
    strong: Denoiser = net
    if options.autoguidance != 1:
        if follows and weight <= 0:
            raise UsageError(f"--autoguidance does not go with a guidance of {weight:g}.")
        share = (options.autoguidance - 1) / (weight if follows else 1)  # it comes w times
        strong = Autoguidance(net, early(model).denoiser, 1 + share, interval)
    if composed:
        terms = ("text", "emphasis")
        return Composed(strong, terms, weight, interval, negative, *shape, reference=net)
    if follows:
        return ClassifierFree(strong, weight, interval, negative, *shape, reference=net)
    return strong


def _negative(model: Model, options: DrawOptions) -> dict[str, Tensor | None] | None:
    """The conditions to steer away from, if the options name them."""
    if options.negative is None:
        return None
    prompt = Prompt.read(options.negative)
    if terms_of([prompt]):
        raise UsageError("--negative is one text, without AND.")
    told = texts(model, [prompt])
    away: dict[str, Tensor | None] = {k: v.to(model.device) for k, v in told.items()}
    return {"emphasis": None} | away
